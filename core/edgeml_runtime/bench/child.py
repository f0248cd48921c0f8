"""The program that benchmarks a model: `python -m edgeml_runtime.bench.child`.

It reads a `Job` from stdin and writes a `Reply` to stdout, both msgpack. It loads only the code that a device loads, so
that its peak memory is a device's. The model's files are on this machine already; the caller puts them there.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgeml_core import golden
from edgeml_core.calls import BenchmarkResult, Refused, Reply, Timing
from edgeml_core.card import Latency
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Manifest
from edgeml_core.processing import INPUT_IDS, AudioInput, DecodedTranscript, Generation, PromptInput
from edgeml_runtime import engines, stdio
from edgeml_runtime.bench import energy, host_load
from edgeml_runtime.encode.log_mel import HOP_SAMPLES
from edgeml_runtime.engines import Session
from edgeml_runtime.generate.cache import Cache, Decoder
from edgeml_runtime.hardware import board
from edgeml_runtime.tensors import Array, from_data

#: Runs before any is timed: the first ones allocate buffers and fill caches.
WARMUP_RUNS: Final = 5
#: Timed runs; fewer give no 99th percentile worth the name.
RUNS_MIN: Final = 30
#: Timed runs; bounds the memory for the times of a model that takes microseconds.
RUNS_MAX: Final = 100_000
#: Tokens of the prompt that stands for long ones.
PREFILL_TOKENS: Final = 256
_PEAK: Final = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


class TimedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model to time: its file, its manifest, and one input by tensor name."""

    path: str
    manifest: Manifest
    inputs: Mapping[str, TensorData]

    def load(self, threads: int | None) -> Session:
        """Load the model in its runtime."""
        return engines.load(Path(self.path), self.manifest, threads=threads)

    def prefill(self, session: Session) -> tuple[int, Callable[[], object]] | None:
        """Return a long prompt's number of tokens and the run that reads it; None where no text is written."""
        spec, prompt = self.manifest.postprocess, self.manifest.preprocess
        if not isinstance(spec, Generation) or not isinstance(prompt, PromptInput):
            return None
        tokens = min(PREFILL_TOKENS, prompt.max_length - 1)
        ids = np.resize(from_data(self.inputs[INPUT_IDS])[0], tokens).tolist()
        cache = Cache(Decoder(self.manifest.inputs, spec), session)

        def read() -> object:
            cache.rewind(0)
            return cache.read(ids)

        return tokens, read

    def run(self, session: Session) -> Callable[[], object]:
        """Return the run to time: see `timed_run`."""
        return timed_run(session, self.manifest, {name: from_data(it) for name, it in self.inputs.items()})


def timed_run(session: Session, manifest: Manifest, inputs: Mapping[str, Array]) -> Callable[[], object]:
    """Return the run that stands for a model's speed: of the inputs; of a language model, one token behind its prompt.

    Args:
        session: the loaded model.
        manifest: the bundle's.
        inputs: arrays by tensor name, with the dtypes and shapes of the manifest's inputs.
    """
    if not isinstance(manifest.postprocess, Generation):
        return partial(session.run, _whole(manifest, inputs))
    prompt: list[int] = inputs[INPUT_IDS][0].tolist()
    cache = Cache(Decoder(manifest.inputs, manifest.postprocess), session)

    def one_token() -> object:
        cache.rewind(len(prompt))
        return cache.read(prompt[len(cache.tokens) :] or prompt[-1:])

    return one_token


def _whole(manifest: Manifest, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Fill up a spectrum: golden cases have its beginning only, and a sound is always read as long as the window."""
    audio = manifest.preprocess
    if not (isinstance(manifest.postprocess, DecodedTranscript) and isinstance(audio, AudioInput) and audio.log_mel):
        return inputs
    name = max(inputs, key=lambda it: inputs[it].shape[-1])
    missing = audio.log_mel.samples // HOP_SAMPLES - inputs[name].shape[-1]
    return {**inputs, name: np.pad(inputs[name], ((0, 0), (0, 0), (0, missing)))}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the program.

    Args:
        threads: of the runtime; None takes the manifest's number.
        seconds: of timed runs, after the warm-up.
    """

    model: TimedModel
    threads: int | None
    seconds: float


def of_bundle(folder: Path, manifest: Manifest, timing: Timing) -> Job:
    """Make the job for a bundle whose files lie in `folder`.

    Raises:
        UsageError: `usage`, when the bundle has no such golden case.
        RejectedError: `bundle-format`.
    """
    cases = golden.decode((folder / manifest.golden.path).read_bytes())
    if timing.case > len(cases):
        hint = f"name one from 1 to {len(cases)}"
        raise UsageError("usage", f"the bundle has no golden case {timing.case}", hint)
    inputs = cases[timing.case - 1].inputs
    model = TimedModel(path=str(folder / manifest.model), manifest=manifest, inputs=inputs)
    return Job(model=model, threads=timing.threads, seconds=timing.seconds)


def reply(job: Job) -> Reply:
    """Run a job. The reply names the CPU and the runtime; an error is a reply, too."""
    this, runtime = board.this_machine(), job.model.manifest.runtime
    threads = engines.thread_count(job.model.manifest, job.threads)
    empty = Reply(cpu=this.cpu, runtime=this.runtimes.get(runtime.engine, ""), threads=threads)
    try:
        return msgspec.structs.replace(empty, benchmark=run(job))
    except EdgemlError as error:
        return msgspec.structs.replace(empty, refused=Refused.of(error))


def run(job: Job) -> BenchmarkResult:
    """Load the model and time it.

    Raises:
        DeviceError: a runtime is missing or failed.
    """
    begun = time.perf_counter()
    session = job.model.load(job.threads)
    load_ms = ms_since(begun)
    one = job.model.run(session)
    first_ms = run_ms(one)
    for _ in range(WARMUP_RUNS):
        one()
    joules, before, begun = energy.read(), host_load.counts(), time.perf_counter()
    times_ms = _times_ms(one, job.seconds)
    elapsed_ms = ms_since(begun)
    return BenchmarkResult(
        latency=latency(times_ms),
        load_ms=round(load_ms, 4),
        first_inference_ms=round(first_ms, 4),
        throughput_per_s=round(1000 * len(times_ms) / elapsed_ms, 2),
        peak_rss_bytes=peak_rss_bytes(),
        energy=energy.between(joules, energy.read(), len(times_ms)),
        host=host_load.assess(before, host_load.counts(), times_ms),
    )


def _times_ms(one: Callable[[], object], seconds: float) -> list[float]:
    times_ms: list[float] = []
    until = time.perf_counter() + seconds
    while len(times_ms) < RUNS_MIN or (len(times_ms) < RUNS_MAX and time.perf_counter() < until):
        times_ms.append(run_ms(one))
    return times_ms


def latency(times_ms: list[float]) -> Latency:
    """Compute the percentiles of times in ms, taken after `WARMUP_RUNS` runs."""
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(times_ms, (50, 90, 99)))
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, runs=len(times_ms), warmup=WARMUP_RUNS)


def run_ms(one: Callable[[], object]) -> float:
    """Time one run, in ms."""
    begun = time.perf_counter()
    one()
    return ms_since(begun)


def ms_since(begun: float) -> float:
    """Return the ms since `begun`, a value of `time.perf_counter` in seconds."""
    return (time.perf_counter() - begun) * 1000


def peak_rss_bytes() -> int:
    """Read the peak memory of this process; getrusage's would be the parent's where that was larger."""
    found = _PEAK.search(Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(stdio.answer(Job, reply))

"""The benchmark's program, on a real tiny model."""

import time

import msgspec
import numpy as np
import pytest

from edgeml_core import golden
from edgeml_core.calls import Timing
from edgeml_core.errors import UsageError
from edgeml_runtime import engines
from edgeml_runtime.bench import child
from edgeml_runtime.bench.child import RUNS_MIN, WARMUP_RUNS
from edgeml_runtime.generate.cache import Cache
from edgeml_runtime.tensors import from_data
from support.task_models import NAMES, writer


@pytest.fixture
def job(unpack):
    """The first golden case of a linear model, timed as briefly as possible."""
    opened = unpack()
    return child.of_bundle(opened.folder, opened.manifest, Timing(seconds=1e-6))


def test_of_bundle_takes_the_input_of_the_golden_case(unpack):
    """Cases count from 1."""
    opened = unpack()
    job = child.of_bundle(opened.folder, opened.manifest, Timing(threads=3, seconds=2.5))
    assert (job.threads, job.seconds) == (3, 2.5)
    assert {name: from_data(it).shape for name, it in job.model.inputs.items()} == {"x": (2, 4)}


def test_of_bundle_case_beyond_the_last_raises_with_the_range(unpack):
    """The hint has the cases that exist."""
    opened = unpack()
    with pytest.raises(UsageError, match="no golden case 99") as caught:
        child.of_bundle(opened.folder, opened.manifest, Timing(case=99))
    assert caught.value.hint == "name one from 1 to 1"


def test_reply_short_job_has_the_fewest_runs(job):
    """A model that is slower than the time allows still gets enough runs for a 99th percentile."""
    reply = child.reply(job)
    assert reply.refused is None
    assert reply.benchmark.latency.runs == RUNS_MIN
    assert reply.benchmark.latency.warmup == WARMUP_RUNS
    assert reply.threads == 1
    assert reply.cpu
    assert reply.runtime


def test_reply_longer_job_has_more_runs(job):
    """Runs go on until the time is over: at some microseconds a run, a tenth of a second has more than the fewest."""
    benchmark = child.reply(msgspec.structs.replace(job, seconds=0.1)).benchmark
    assert benchmark.latency.runs > RUNS_MIN
    assert benchmark.throughput_per_s > 0


def test_reply_model_that_is_absent_has_the_error_and_no_figures(job):
    """An error is a reply, so that it isn't mistaken for a crash."""
    absent = msgspec.structs.replace(job.model, path=f"{job.model.path}.absent")
    reply = child.reply(msgspec.structs.replace(job, model=absent))
    assert reply.benchmark is None
    assert reply.refused.code == "runtime-failed"
    assert reply.cpu


def test_reply_keeps_its_name_on_the_wire(job):
    """Agents and hosts of other releases know the figures as `trial`."""
    encoded = msgspec.to_builtins(child.reply(job))
    assert "trial" in encoded
    assert "benchmark" not in encoded


def test_latency_has_the_percentiles():
    """Of the numbers 0 to 100 they are themselves."""
    found = child.latency([float(number) for number in range(101)])
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.runs) == (50, 90, 99, 101)


def test_run_ms_includes_the_whole_run():
    """A run that takes 5 ms is not faster than that."""
    assert child.run_ms(lambda: time.sleep(0.005)) >= 5


def test_timed_run_of_a_language_model_reads_one_token(unpack, monkeypatch):
    """Behind its prompt, each time."""
    opened = unpack(lambda path: writer(path, (NAMES["text-generation"], "1.0", "x86-vnni")))
    session = engines.load(opened.folder / opened.manifest.model, opened.manifest)
    (case, *_) = golden.decode((opened.folder / opened.manifest.golden.path).read_bytes())
    inputs = {name: from_data(it) for name, it in case.inputs.items()}
    read, whole = [], Cache.read
    monkeypatch.setattr(Cache, "read", lambda self, ids: read.append(len(ids)) or whole(self, ids))
    one = child.timed_run(session, opened.manifest, inputs)
    for _ in range(3):
        one()
    assert read == [inputs["input_ids"].shape[1], 1, 1]


def test_peak_rss_grows_with_memory_and_never_shrinks():
    """A peak of tens of MB is a Python process; it stays after the memory is free again."""
    before = child.peak_rss_bytes()
    block = np.ones(64 * 1024 * 1024, np.uint8)
    peak = child.peak_rss_bytes()
    del block
    assert before > 10e6
    assert peak > 64 * 1024 * 1024
    # The kernel keeps these counts for each CPU and adds them up late: 1 % is more than its error.
    assert child.peak_rss_bytes() > 0.99 * peak > 0.98 * before

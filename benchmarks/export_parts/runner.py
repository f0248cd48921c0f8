"""One contender's process: `runner.py KIND PATH THREADS INPUTS`. Prints `ready`, then replies to commands on stdin.

`burst N` replies {"times_ms", "other_cores"} of N runs on the first row; `outputs FILE` saves the outputs of all rows.
It runs in the environment of its runtime: beyond that it needs numpy and msgspec, and `core` in its path.
"""

# ruff: noqa: PLC0415 - each process loads its own runtime only
from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeml_runtime.bench import host_load  # its import switches onnxruntime's telemetry off

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]
#: A command takes the text behind its verb, and returns a value that JSON has.
Command = Callable[[str], object]
#: Runs before a burst, as a fraction of its runs: the contender before has filled the processor's caches.
WARMUP_FRACTION = 0.2


def main(kind: str, path: str, threads: int, inputs: str) -> None:
    """Load the model and reply to commands until stdin ends."""

    def load() -> dict[str, Command]:
        run = RUNNERS[kind](Path(path), threads)
        given = rows(Path(inputs))
        run(given[0])
        return {
            "burst": lambda count: burst(lambda: run(given[0]), int(count)),
            "outputs": lambda file: np.save(file, np.concatenate([run(row) for row in given])),
        }

    serve(load)


def serve(load: Callable[[], Mapping[str, Command]]) -> None:
    """Load commands by verb, print `ready`, and reply to each line of stdin with the command's value as JSON."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the libraries' own output goes to stderr
    with contextlib.suppress(PermissionError):  # only root may: other programs then wait until the burst ends
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    commands = load()
    print("ready", file=replies)
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        print(json.dumps(commands[verb](argument)), file=replies)


def burst(run: Callable[[], object], count: int) -> dict[str, object]:
    """Time `count` runs in ms, after a fifth as many that aren't timed."""
    for _ in range(math.ceil(count * WARMUP_FRACTION)):
        run()
    before, times_ms = host_load.counts(), []
    for _ in range(count):
        begun = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - begun) * 1000)
    return {"times_ms": times_ms, "other_cores": host_load.others(before, host_load.counts())[0]}


def rows(path: Path) -> list[dict[str, np.ndarray]]:
    """Read the rows of an .npz file of arrays [rows, ...], each as arrays [1, ...]."""
    with np.load(path) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    count = len(next(iter(arrays.values())))
    return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]


def _torch(path: Path, threads: int) -> Run:
    """Load a model in eager PyTorch, as transformers does."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    config = transformers.AutoConfig.from_pretrained(path)
    model = getattr(transformers, config.architectures[0]).from_pretrained(path, dtype=torch.float32).eval()

    def run(inputs: Inputs) -> np.ndarray:
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0].numpy()

    return run


def _onnxruntime(path: Path, threads: int) -> Run:
    """Load an ONNX file with onnxruntime's default session options, except for the threads."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_inputs()}
    return lambda inputs: session.run(None, {name: inputs[name] for name in names})[0]


def _edgeml(path: Path, threads: int) -> Run:
    """Load a bundle's model as a device does, with the target's session options."""
    import msgspec

    from edgeml_core.manifest import Manifest
    from edgeml_runtime import engines

    manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
    session = engines.load(path / manifest.model, manifest, threads=threads)
    is_channels_last = getattr(manifest.preprocess, "layout", "") == "NHWC"

    def run(inputs: Inputs) -> np.ndarray:
        given = {spec.name: inputs[spec.name].astype(spec.dtype, copy=False) for spec in manifest.inputs}
        return session.run(given)[manifest.outputs[0].name]

    def run_channels_last(inputs: Inputs) -> np.ndarray:
        return run({name: np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for name, array in inputs.items()})

    return run_channels_last if is_channels_last else run


def _openvino(path: Path, threads: int) -> Run:
    """Load a model in OpenVINO, tuned for latency."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda inputs: request.infer(dict(inputs), share_inputs=True)[0].copy()


RUNNERS = {"pytorch": _torch, "onnxruntime": _onnxruntime, "edgeml": _edgeml, "openvino": _openvino}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])

"""One contender's process: `runner.py KIND PATH THREADS INPUTS`. Says `ready`, then answers lines on stdin.

`burst N` answers {"times_ms", "other_cores"} of N runs on the first input; `answer FILE` saves the outputs for all.
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

import msgspec
import numpy as np

from edgeml_core.manifest import Manifest
from edgeml_runtime import engines
from edgeml_runtime.bench import host_load  # its import switches onnxruntime's telemetry off

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]
#: Runs before a burst, as a share of it: what ran meanwhile has taken the caches.
WARMUP_SHARE = 0.2


def main(kind: str, path: str, threads: int, inputs: str) -> None:
    """Load the model and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print doesn't mix with the answers
    with contextlib.suppress(PermissionError):  # root's: what else runs on this host then waits for the burst's end
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    run = RUNNERS[kind](Path(path), threads)
    rows = _rows(Path(inputs))
    run(rows[0])
    print("ready", file=answers)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "burst":
            print(json.dumps(_burst(lambda: run(rows[0]), int(argument))), file=answers)
        else:
            np.save(argument, np.concatenate([run(row) for row in rows]))
            print("{}", file=answers)


def _burst(run: Callable[[], object], count: int) -> dict[str, object]:
    for _ in range(math.ceil(count * WARMUP_SHARE)):
        run()
    before, times_ms = host_load.counts(), []
    for _ in range(count):
        begun = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - begun) * 1000)
    return {"times_ms": times_ms, "other_cores": host_load.others(before, host_load.counts())[0]}


def _rows(path: Path) -> list[dict[str, np.ndarray]]:
    with np.load(path) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    count = len(next(iter(arrays.values())))
    return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]


def _torch(path: Path, threads: int) -> Run:
    """Eager PyTorch, as transformers loads it."""
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
    """ONNX as onnxruntime comes: its default session options, but for the threads."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_inputs()}
    return lambda inputs: session.run(None, {name: inputs[name] for name in names})[0]


def _edgeml(path: Path, threads: int) -> Run:
    """A bundle's model as a device loads it, with the target's session options."""
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
    """OpenVINO for latency, compiled for the inputs' own shape."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda inputs: request.infer(dict(inputs), share_inputs=True)[0].copy()


RUNNERS = {"pytorch": _torch, "onnxruntime": _onnxruntime, "edgeml": _edgeml, "openvino": _openvino}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])

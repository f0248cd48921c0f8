"""MiniLM int8 as `edgeml export` ships it, against PyTorch, onnxruntime, optimum-onnx's preset and OpenVINO/NNCF.

Cosines are of sentence embeddings with PyTorch's, on sentences that nothing was calibrated on. Of OpenVINO's settings
the first is NNCF's default. The aim is held against the fastest setting that is at least as accurate as edgeml's.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import transformers

from edgeml_core.manifest import Format
from export_parts import contenders, encoder, texts
from export_parts.comparison import PYTORCH, THREADS, Comparison, saved
from export_parts.contenders import NNCF_DEFAULT, OPTIMUM_FP32, OPTIMUM_INT8
from export_parts.race import Contender, race
from harness.figures import Outcome, Run, least
from harness.rivals import RivalUnavailableError

TITLE: Final = "MiniLM int8"
SAME_ACCURACY: Final = "OpenVINO/NNCF int8 at edgeml's accuracy"
AIMS: Final = {PYTORCH: least(6), OPTIMUM_INT8: least(1.3), OPTIMUM_FP32: None, NNCF_DEFAULT: None}
OPENVINO_AIM: Final = least(1.15)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Texts of `tokens` tokens, bundles in `formats`, at least `rounds` quiet rounds within `limit_s` seconds."""

    tokens: int
    formats: Sequence[Format]
    rounds: int
    limit_s: float


FULL: Final = Size(tokens=128, formats=("onnx", "tflite"), rounds=15, limit_s=60)
#: A tiny encoder in one format: the other format's conversion is in `cnn`.
QUICK: Final = Size(tokens=32, formats=("onnx",), rounds=1, limit_s=2)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the times, the cosines and the ratios."""
    size, folder = run.size(FULL, QUICK), run.folder / "minilm"
    folder.mkdir()
    model = encoder.original(run)
    inputs = texts.timed(size.tokens)
    timed = saved(inputs, folder / "inputs.npz")
    original = folder / "original"
    transformers.AutoModel.from_pretrained(model, dtype="float32").save_pretrained(original)
    ours = [contenders.shipped(it, folder) for it in encoder.bundles(run, size.formats)]
    whole, preset = contenders.optimum(model, "feature-extraction", folder)
    openvino: list[Contender] = []
    try:
        calibration = saved(texts.calibration(size.tokens), folder / "calibration.npz")
        openvino = contenders.openvino(whole.path, calibration, folder, run)
    except RivalUnavailableError as error:
        yield error.omission("OpenVINO/NNCF")
    pytorch = Contender(name=PYTORCH, kind="pytorch", path=original)
    entered = [pytorch, whole, preset, *openvino, *ours]
    results = race(entered, timed, threads=THREADS, rounds=size.rounds, limit_s=size.limit_s)
    found = Comparison(title=TITLE, results=results, ours=results[-len(ours) :], pool=texts.mean_pooling(inputs))
    rival = _equally_accurate(found, openvino)
    yield from found.figures(AIMS | dict.fromkeys(rival, OPENVINO_AIM), dict.fromkeys(rival, SAME_ACCURACY))


def _equally_accurate(found: Comparison, openvino: Sequence[Contender]) -> list[str]:
    """Return the fastest of OpenVINO's settings that is at least as accurate as edgeml's; none where none is."""
    means = {name: statistics.mean(values) for name, values in found.cosines().items()}
    wanted = means[found.best.contender.name]
    accurate = [it for it in found.results if it.contender in openvino and means[it.contender.name] >= wanted]
    return [it.contender.name for it in sorted(accurate, key=lambda it: it.p50_ms)[:1]]

"""One trained model exported by edgeml and by onnxruntime's quantizers, each judged by the model's own metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edgeml.check.gate import SMALLER_MAX
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest, MeasuringBudget, ModelInMemory
from edgeml_core.errors import EdgemlError
from edgeml_runtime.unpack import unpacked
from support.trained.table import Array, Trained, session

TARGET: Final = "x86-vnni"
#: Rows that calibrate; inputs of pictures are large as text.
ROWS_MAX: Final = 48
ROWS_MAX_ELEMENTS: Final = 6_000_000
#: A model of this fraction more bytes counts as as small; a score of this much less as as good.
SIZE_TOLERANCE: Final = 0.05
SCORE_TOLERANCE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What one way made of a model: its size as a fraction of fp32's and its score, or why there is none.

    `was_slow` tells that a recipe was left for its time, as a busy host's may be: the recipe that ships is chance then.
    """

    recipe: str
    size: float = 0.0
    score: float = 0.0
    error: str = ""
    was_slow: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What edgeml and onnxruntime's two quantizers made of a model."""

    edgeml: Shipped
    dynamic: Shipped | None = None
    static: Shipped | None = None


def is_as_good(found: Outcome, bound: float) -> bool:
    """Whether edgeml is as small and as accurate as the smallest of onnxruntime's that keeps the bound."""
    made = [it for it in (found.dynamic, found.static) if it and not it.error]
    rivals = [it for it in made if it.score >= bound and it.size < SMALLER_MAX]
    best = min(rivals, key=lambda it: it.size, default=None)
    own = found.edgeml
    return best is None or (own.size <= best.size * (1 + SIZE_TOLERANCE) and own.score >= best.score - SCORE_TOLERANCE)


def compare(row: Trained, folder: Path) -> Outcome:
    """Export a model in each way, and answer the items that didn't calibrate."""
    found = list(row.items())
    if not found:
        return Outcome(edgeml=_exported(row, row.path, None, folder, [])[0])
    calibrating, held_out = found[: row.calibrate], found[row.calibrate :]
    module, example = row.module(row.path) if row.module else (None, None)
    in_memory = ModelInMemory(name=row.path.stem, model=module, example=example) if module is not None else None
    fp32 = _fp32(row, in_memory, folder) if in_memory else row.path
    with recorded() as feeds:
        row.ask(fp32, calibrating)  # of other models, too: those that prepare the inputs
    own = {it.name for it in session(fp32).get_inputs()}
    feeds = _some([it for it in feeds if it.keys() == own])
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"inputs": {name: array.tolist() for name, array in it.items()}}) + "\n" for it in feeds)
    )
    original = row.ask(module if module is not None else row.path, held_out)

    def judged(path: Path, recipe: str) -> Shipped:
        answers = row.ask(path, held_out)
        return Shipped(recipe=recipe, size=_bytes(path) / _bytes(fp32), score=row.score(original, answers))

    shipped, place = _exported(row, row.path, in_memory, folder, ["--calibrate", rows])
    return Outcome(
        edgeml=replace(judged(place, shipped.recipe), was_slow=shipped.was_slow) if place else shipped,
        dynamic=_quantized(fp32, folder / "dynamic.onnx", None, judged),
        static=_quantized(fp32, folder / "static.onnx", feeds, judged),
    )


def _exported(
    row: Trained, path: Path, in_memory: ModelInMemory | None, folder: Path, options: Sequence[Any]
) -> tuple[Shipped, Path | None]:
    """Export by edgeml and unpack what ships."""
    request = ExportRequest(
        model=str(path), targets=[TARGET], formats=("onnx",), output=folder / "out", in_memory=in_memory,
        calibrate=options[1] if options else None, name="trained", budget=MeasuringBudget(paired_s=0.5, alone_s=0.2),
    )  # fmt: skip
    try:
        (exported,) = export(request)
    except EdgemlError as error:
        return Shipped(recipe="", error=error.message.replace(str(path), path.name)), None
    card = exported.manifest.card
    for it in card.tried:
        print("   ", it.recipe, it.size_bytes, it.cosine, it.why)
    place = folder / "shipped"
    with unpacked(exported.path) as bundle:
        bundle.folder.rename(place)
        bundle.folder.mkdir()
    was_slow = any(it.why.startswith("slower than fp32") for it in card.tried)
    return Shipped(recipe=card.recipe, was_slow=was_slow), place / exported.manifest.model


def _fp32(row: Trained, in_memory: ModelInMemory, folder: Path) -> Path:
    request = ExportRequest(
        model="", targets=[TARGET], formats=("onnx",), output=folder / "fp32", in_memory=in_memory, quantize="none",
        name="trained",
    )  # fmt: skip
    (exported,) = export(request)
    place = folder / "plain"
    with unpacked(exported.path) as bundle:
        bundle.folder.rename(place)
        bundle.folder.mkdir()
    return place / exported.manifest.model


def _quantized(fp32: Path, path: Path, feeds: Sequence[dict[str, Array]] | None, judged: Any) -> Shipped:
    """Quantize by onnxruntime as its documentation says: signed weights, by channel."""
    try:
        if feeds is None:
            quantize_dynamic(fp32, path, per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_static(
                fp32, path, _Reader(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        return judged(path, "")
    except Exception as error:  # noqa: BLE001 -- the quantizers and the runtime share no base
        return Shipped(recipe="", error=f"{type(error).__name__}: {error}")


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@contextmanager
def recorded() -> Iterator[list[dict[str, Array]]]:
    """Record what onnxruntime's sessions of a block are fed."""
    feeds: list[dict[str, Array]] = []

    class Recording(onnxruntime.InferenceSession):
        def run(self, outputs: Any, inputs: dict[str, Any], *options: Any) -> Any:
            feeds.append({name: np.array(value) for name, value in inputs.items()})
            return super().run(outputs, inputs, *options)

    with mock.patch.object(onnxruntime, "InferenceSession", Recording):
        yield feeds


def _some(feeds: Sequence[dict[str, Array]]) -> list[dict[str, Array]]:
    """Take some of the recorded inputs, evenly."""
    each = sum(it.size for it in feeds[0].values())
    count = max(4, min(ROWS_MAX, ROWS_MAX_ELEMENTS // each))
    return list(feeds)[:: -(-len(feeds) // count)]


def _bytes(model: Path) -> int:
    """The bytes of a model with its external weights."""
    proto = onnx.load(model, load_external_data=False)
    parts = {entry.value for it in proto.graph.initializer for entry in it.external_data if entry.key == "location"}
    return sum((model.parent / name).stat().st_size for name in {model.name, *parts})

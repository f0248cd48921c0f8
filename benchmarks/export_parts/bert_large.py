"""A BERT-large shape, 24 layers of 1024: int8 against PyTorch. Its weights are random, so only its speed counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeml_core.manifest import Format
from export_parts import contenders, texts
from export_parts.comparison import PYTORCH, THREADS, Comparison, saved
from export_parts.race import Contender, race
from harness.figures import Outcome, Run, least

AIMS: Final = {PYTORCH: least(8)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape, the formats, and at least `rounds` quiet rounds within `limit_s` seconds."""

    width: int
    layers: int
    heads: int
    formats: tuple[Format, ...]
    rounds: int
    limit_s: float


FULL: Final = Size(width=1024, layers=24, heads=16, formats=("onnx", "tflite"), rounds=15, limit_s=60)
QUICK: Final = Size(width=64, layers=2, heads=4, formats=("onnx",), rounds=1, limit_s=2)
TOKENS: Final = 128


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the times and the ratio."""
    size, folder = run.size(FULL, QUICK), run.folder / "bert-large"
    folder.mkdir()
    model = texts.random_bert(folder / "model", width=size.width, layers=size.layers, heads=size.heads)
    inputs = {name: array[:1] for name, array in texts.timed(TOKENS).items()}
    ours = [contenders.quantized(model, it, folder) for it in size.formats]
    pytorch = Contender(name=PYTORCH, kind="pytorch", path=model)
    timed = saved(inputs, folder / "inputs.npz")
    results = race([pytorch, *ours], timed, threads=THREADS, rounds=size.rounds, limit_s=size.limit_s)
    found = Comparison(
        title="BERT-large shape int8", results=results, ours=results[1:], pool=texts.mean_pooling(inputs)
    )
    yield from found.figures(AIMS)

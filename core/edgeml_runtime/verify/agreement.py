"""The agreement of two versions of a model on one item, by a function for each kind of answer.

The scores of a retrained model always differ. Two answers agree when a caller would act on them in the same way: by the
label, the text, the direction of a vector, the number. Which version is right is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeml_core.processing import (
    Boxes,
    Classes,
    DecodedText,
    DecodedTranscript,
    Embedding,
    Generation,
    MaskFill,
    Postprocess,
    Span,
    TensorOutput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime.postprocess import detection, speech
from edgeml_runtime.tasks import Answer
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify.golden import cosine

#: Cosine of two vectors; above it a search for neighbours nearly always finds the same ones.
COSINE_MIN: Final = 0.95
#: The largest distance of two numbers of one output, as a fraction of the largest that the served version has answered.
DISTANCE_MAX: Final = 0.1
#: Fraction of a text's tokens with the same label; borderline tokens differ between two trainings.
TOKENS_SHARE_MIN: Final = 0.95
#: Fraction of a transcript's words that may differ; two good recognizers differ in some.
WORD_ERRORS_MAX: Final = 0.1


class Scales:
    """The largest magnitude of each output that the served version has answered, by name."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}

    def of(self, name: str, served: Array) -> float:
        """Note an answer of the served version, and return the largest magnitude until now."""
        finite = np.abs(served[np.isfinite(served)])
        self._largest[name] = max(self._largest.get(name, 0.0), float(finite.max(initial=0.0)))
        return self._largest[name]


def agree(one: Sequence[Answer], other: Sequence[Answer], spec: Postprocess, scales: Scales | None = None) -> bool:
    """Return whether two versions agree on all items of a request.

    Args:
        one: answers of the version that serves.
        other: answers of the other version, in the same order.
        spec: the serving version's postprocessing.
        scales: of the served version's numbers, which are added; None takes those of this request alone.
    """
    if len(one) != len(other):
        return False
    if isinstance(spec, TensorOutput):
        scales = scales or Scales()
        pairs = [[_arrays(answer) for answer in pair] for pair in zip(one, other, strict=True)]
        return all(outputs_agree(here, there, scales) for here, there in pairs)
    same = _TABLE[type(spec)]
    return all(same(*pair) for pair in zip(one, other, strict=True))


def outputs_agree(one: Mapping[str, Array], other: Mapping[str, Array], scales: Scales | None = None) -> bool:
    """Return whether two sets of raw outputs agree.

    They have the same names and shapes, nearly the same directions, and equal integers. Numbers that a caller reads
    as they are also lie near to each other; scores behind a label or a text may grow together.

    Args:
        one: arrays of the version that serves, by output name, of any dtype and shape.
        other: as `one`, of the other version.
        scales: of the served version's numbers, where a caller reads them as they are.
    """
    return one.keys() == other.keys() and all(_is_same(name, one[name], other[name], scales) for name in one)


def _is_same(name: str, one: Array, other: Array, scales: Scales | None) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "iub" and other.dtype.kind in "iub":
        return bool((one == other).all())
    if scales is None:
        return _is_parallel(one, other)
    here, there = one.astype(np.float64), other.astype(np.float64)
    bound = DISTANCE_MAX * scales.of(name, here)
    return _is_parallel(one, other) and bool((np.abs(here - there) <= bound).all())


def _is_parallel(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    here, there = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return cosine(here, there) >= COSINE_MIN


def _classes(one: Any, other: Any) -> bool:  # noqa: ANN401 -- an answer of the kind in the table
    return bool(one["labels"][0]["label"] == other["labels"][0]["label"])


def _token_classes(one: Any, other: Any) -> bool:  # noqa: ANN401
    here, there = ([(it["start"], it["end"], it["label"]) for it in side["tokens"]] for side in (one, other))
    return len({*here} & {*there}) >= TOKENS_SHARE_MIN * max(len(here), len(there))


def _fills(one: Any, other: Any) -> bool:  # noqa: ANN401
    return bool(one["fills"][0]["token_str"] == other["fills"][0]["token_str"])


def _boxes(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Compare labels, and the boxes of each label."""
    here, there = ([it["label"] for it in side["boxes"]] for side in (one, other))
    if sorted(here) != sorted(there):
        return False
    return all(all(detection.match(_edges(one, label), _edges(other, label))) for label in set(here))


def _edges(answer: Any, label: str) -> list[Array]:  # noqa: ANN401
    return [detection.edges(it) for it in answer["boxes"] if it["label"] == label]


def _transcript(one: Any, other: Any) -> bool:  # noqa: ANN401
    here, there = one["text"].lower().split(), other["text"].lower().split()
    return speech.word_errors(here, there) <= WORD_ERRORS_MAX * max(len(here), len(there))


def _span(one: Any, other: Any) -> bool:  # noqa: ANN401
    return bool(one["answer"] == other["answer"])


def _embedding(one: Any, other: Any) -> bool:  # noqa: ANN401
    return _is_parallel(np.asarray(one["embedding"]), np.asarray(other["embedding"]))


def _always(*_: Any) -> bool:  # noqa: ANN401
    """Accept any two texts: two language models never write the same one."""
    return True


def _arrays(answer: Any) -> dict[str, Array]:  # noqa: ANN401
    return {name: np.asarray(it) for name, it in answer["outputs"].items()}


_TABLE: Final[dict[type[Postprocess], Callable[[Any, Any], bool]]] = {
    Classes: _classes,
    TokenClasses: _token_classes,
    MaskFill: _fills,
    Boxes: _boxes,
    Transcript: _transcript,
    DecodedTranscript: _transcript,
    DecodedText: _transcript,
    Span: _span,
    Embedding: _embedding,
    Generation: _always,
}

"""Whether two versions of a model agree on one item: a function for each kind of answer, in a table.

A retrained model's scores differ always; what counts is what somebody would act on: the label, the words, the
direction of a vector. Who is right isn't known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeml_core.processing import Boxes, Classes, Embedding, Generation, Postprocess, Span, TensorOutput, TokenClasses
from edgeml_runtime.postprocess import detection
from edgeml_runtime.tasks import Answer
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify.golden import cosine

#: Vectors that point this much the same way find the same neighbours, nearly always.
COSINE_MIN: Final = 0.95
#: Of a text's tokens so many must have the same label.
TOKENS_SHARE_MIN: Final = 0.95


def agree(one: Sequence[Answer], other: Sequence[Answer], spec: Postprocess) -> bool:
    """Whether the answers to one request, item by item, would lead to the same.

    Args:
        spec: how the version that serves makes answers of outputs.
    """
    same = _TABLE[type(spec)]
    return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))


def outputs_agree(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """The same for a model's raw outputs: each has its shape, and points the same way."""
    return one.keys() == other.keys() and all(_same_way(one[name], other[name]) for name in one)


def _same_way(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    here, there = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return cosine(here, there) >= COSINE_MIN


def _classes(one: Any, other: Any) -> bool:  # noqa: ANN401 -- an answer of the kind that the table says
    return bool(one["labels"][0]["label"] == other["labels"][0]["label"])


def _token_classes(one: Any, other: Any) -> bool:  # noqa: ANN401
    here, there = ([(it["start"], it["end"], it["label"]) for it in side["tokens"]] for side in (one, other))
    return len({*here} & {*there}) >= TOKENS_SHARE_MIN * max(len(here), len(there))


def _boxes(one: Any, other: Any) -> bool:  # noqa: ANN401
    """The same labels, each in about the same places."""
    here, there = ([it["label"] for it in side["boxes"]] for side in (one, other))
    if sorted(here) != sorted(there):
        return False
    return all(all(detection.matched(_places(one, label), _places(other, label))) for label in set(here))


def _places(answer: Any, label: str) -> list[Array]:  # noqa: ANN401
    return [detection.edges(it) for it in answer["boxes"] if it["label"] == label]


def _span(one: Any, other: Any) -> bool:  # noqa: ANN401
    return bool(one["answer"] == other["answer"])


def _embedding(one: Any, other: Any) -> bool:  # noqa: ANN401
    return _same_way(np.asarray(one["embedding"]), np.asarray(other["embedding"]))


def _written(*_: Any) -> bool:  # noqa: ANN401
    """Two texts of language models are never the same: that both were written is all that can be asked."""
    return True


def _tensors(one: Any, other: Any) -> bool:  # noqa: ANN401
    here, there = ({name: np.asarray(it) for name, it in side["outputs"].items()} for side in (one, other))
    return outputs_agree(here, there)


_TABLE: Final[dict[type[Postprocess], Callable[[Any, Any], bool]]] = {
    Classes: _classes,
    TokenClasses: _token_classes,
    Boxes: _boxes,
    Span: _span,
    Embedding: _embedding,
    Generation: _written,
    TensorOutput: _tensors,
}

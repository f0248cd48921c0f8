"""From logits to labels with their scores: of a whole item, or of each of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Classes, TokenClasses
from edgeml_runtime.tasks import ClassesAnswer, Row, Tokens, TokensAnswer, with_truncation
from edgeml_runtime.tensors import Array


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, in float32."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Each logit's own probability, in float32; computed so that nothing overflows."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float32))))


def _identity(logits: Array) -> Array:
    return logits


_ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _identity,
}


def classes(row: Row, spec: Classes) -> ClassesAnswer:
    """The scores over the labels, the highest first."""
    scores = _ACTIVATIONS[spec.activation](labelled(row.outputs[spec.output], len(spec.labels), dimensions=1))
    order = np.argsort(-scores, kind="stable")
    answer: ClassesAnswer = {
        "labels": [{"label": spec.labels[index], "score": float(scores[index])} for index in order]
    }
    return with_truncation(answer, row)


def token_classes(row: Row, spec: TokenClasses) -> TokensAnswer:
    """The surest label of each token that stands for text."""
    tokens = row.tokens or Tokens(texts=(), spans=(), special=())
    scores = softmax(labelled(row.outputs[spec.output], len(spec.labels), dimensions=2))
    answer: TokensAnswer = {
        "tokens": [
            {
                "token": text,
                "start": start,
                "end": end,
                "label": spec.labels[int(score.argmax())],
                "score": float(score.max()),
            }
            for text, (start, end), special, score in zip(
                tokens.texts, tokens.spans, tokens.special, scores, strict=False
            )
            if not special
        ]
    }
    return with_truncation(answer, row)


def labelled(logits: Array, labels: int, *, dimensions: int) -> Array:
    """Logits that have one number for each label.

    Raises:
        RejectedError: `bundle-format`, when they don't.
    """
    if logits.ndim != dimensions or logits.shape[-1] != labels:
        raise RejectedError("bundle-format", f"the model's scores have shape {list(logits.shape)} for {labels} labels")
    return logits

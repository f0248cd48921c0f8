"""Labels and their scores, from logits: of a whole item, or of each of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Classes, TokenClasses
from edgeml_runtime.tasks import ClassesAnswer, Row, Tokens, TokensAnswer, with_truncation
from edgeml_runtime.tensors import Array


def softmax(logits: Array) -> Array:
    """Compute probabilities over the last axis.

    Args:
        logits: float [..., labels].

    Returns:
        float32 of the same shape.
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Compute each logit's own probability, without overflow.

    Args:
        logits: float of any shape.

    Returns:
        float32 of the same shape.
    """
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float32))))


def _identity(logits: Array) -> Array:
    return logits


_ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _identity,
}


def classes(row: Row, spec: Classes) -> ClassesAnswer:
    """Score all labels, the highest score first.

    Args:
        row: `spec.output` is float [labels].
        spec: names the output, the labels and the activation.

    Raises:
        RejectedError: `bundle-format`, when the output has another shape.
    """
    scores = _ACTIVATIONS[spec.activation](check_labels(row.outputs[spec.output], len(spec.labels), dimensions=1))
    order = np.argsort(-scores, kind="stable")
    answer: ClassesAnswer = {
        "labels": [{"label": spec.labels[index], "score": float(scores[index])} for index in order]
    }
    return with_truncation(answer, row)


def token_classes(row: Row, spec: TokenClasses) -> TokensAnswer:
    """Choose the label with the highest score for each token of the text, special tokens left out.

    Args:
        row: `spec.output` is float [tokens, labels].
        spec: names the output and the labels.

    Raises:
        RejectedError: `bundle-format`, when the output has another shape.
    """
    tokens = row.tokens or Tokens(texts=(), spans=(), special=())
    scores = softmax(check_labels(row.outputs[spec.output], len(spec.labels), dimensions=2))
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


def check_labels(logits: Array, labels: int, *, dimensions: int) -> Array:
    """Check that logits have one number for each label, and return them.

    Args:
        logits: float [..., labels], with `dimensions` axes.
        labels: their number.
        dimensions: the number of axes.

    Raises:
        RejectedError: `bundle-format`, when the shape differs.
    """
    if logits.ndim != dimensions or logits.shape[-1] != labels:
        raise RejectedError("bundle-format", f"the model's scores have shape {list(logits.shape)} for {labels} labels")
    return logits

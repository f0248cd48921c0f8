"""From a question's scores to the part of its context that answers it; how both became tokens is `text`'s business."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from edgeml_core.processing import Span
from edgeml_runtime.postprocess.classification import softmax
from edgeml_runtime.tasks import Row, SpanAnswer, Tokens
from edgeml_runtime.tensors import Array

#: So many of the likeliest spans of tokens are made into whole words; spans of the same words add up.
SPANS_TAKEN: Final = 12


def span(row: Row, spec: Span) -> SpanAnswer:
    """The likeliest answer in a context that is read at once: see `best`."""
    return best([row], spec)


def best(windows: Iterable[Row], spec: Span) -> SpanAnswer:
    """The likeliest answer in the context, in whole words. What is found in several windows adds up.

    Source: transformers 4.57 `QuestionAnsweringPipeline`, held equal by a test.
    """
    found: dict[str, SpanAnswer] = {}
    for row in windows:
        _find(row, spec, found)
    nothing: SpanAnswer = {"answer": "", "start": 0, "end": 0, "score": 0.0}
    return max(found.values(), key=lambda answer: answer["score"], default=nothing)


def _find(row: Row, spec: Span, found: dict[str, SpanAnswer]) -> None:
    """Add a window's likeliest spans to those found."""
    tokens = row.tokens or Tokens(texts=(), spans=(), special=())
    start, end = (_span_scores(row.outputs[name], tokens) for name in (spec.start, spec.end))
    scores = np.tril(np.triu(np.outer(start, end)), spec.max_tokens - 1).ravel()
    for index in np.argsort(-scores, kind="stable")[:SPANS_TAKEN]:
        first, last = (tokens.words[at] for at in divmod(int(index), len(start)))
        if first and last:
            text = tokens.context[first[0] : last[1]]
            answer = found.setdefault(text.lower(), {"answer": text, "start": first[0], "end": last[1], "score": 0.0})
            answer["score"] += float(scores[index])


def _span_scores(logits: Array, tokens: Tokens) -> Array:
    """Each token's probability. The first token, for "no answer", takes its share, but never begins or ends one."""
    allowed = np.array([word is not None for word in tokens.words], dtype=bool)
    allowed[:1] |= tokens.special[:1]
    scores = softmax(np.where(allowed, logits[: len(allowed)], np.float32(-10_000)))
    scores[:1] *= ~np.array(tokens.special[:1], dtype=bool)
    return scores

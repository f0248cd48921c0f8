"""The answer to a question as a part of its context, from the scores of the tokens (`encode/text.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from edgeml_core.processing import Span
from edgeml_runtime.postprocess.classification import softmax
from edgeml_runtime.tasks import Row, SpanAnswer, Tokens
from edgeml_runtime.tensors import Array

#: Spans of tokens that are extended to whole words, the likeliest first; the scores of spans of the same words add up.
SPANS_MAX: Final = 12


def span(row: Row, spec: Span) -> SpanAnswer:
    """Find the likeliest answer in a context of one window; see `best`."""
    return best([row], spec)


def best(windows: Iterable[Row], spec: Span) -> SpanAnswer:
    """Find the likeliest answer in the context, in whole words. The scores of one answer in several windows add up.

    Args:
        windows: of one context; `spec.start` and `spec.end` are float [tokens].
        spec: names the outputs and the most tokens of an answer.

    Source: transformers 4.57 `QuestionAnsweringPipeline`, held equal by a test.
    """
    found: dict[str, SpanAnswer] = {}
    for row in windows:
        _find(row, spec, found)
    nothing: SpanAnswer = {"answer": "", "start": 0, "end": 0, "score": 0.0}
    return max(found.values(), key=lambda answer: answer["score"], default=nothing)


def _find(row: Row, spec: Span, found: dict[str, SpanAnswer]) -> None:
    """Add a window's likeliest spans to the answers found."""
    tokens = row.tokens or Tokens(texts=(), spans=(), special=())
    start, end = (_span_scores(row.outputs[name], tokens) for name in (spec.start, spec.end))
    scores = np.tril(np.triu(np.outer(start, end)), spec.max_tokens - 1).ravel()
    for index in np.argsort(-scores, kind="stable")[:SPANS_MAX]:
        first, last = (tokens.words[at] for at in divmod(int(index), len(start)))
        if first and last:
            text = tokens.context[first[0] : last[1]]
            answer = found.setdefault(text.lower(), {"answer": text, "start": first[0], "end": last[1], "score": 0.0})
            answer["score"] += float(scores[index])


def _span_scores(logits: Array, tokens: Tokens) -> Array:
    """Compute each token's probability, float32 [tokens].

    The first token stands for "no answer". It has a probability too, but never begins or ends a span.
    """
    allowed = np.array([word is not None for word in tokens.words], dtype=bool)
    allowed[:1] |= tokens.special[:1]
    scores = softmax(np.where(allowed, logits[: len(allowed)], np.float32(-10_000)))
    scores[:1] *= ~np.array(tokens.special[:1], dtype=bool)
    return scores

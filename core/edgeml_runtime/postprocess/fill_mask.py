"""The likeliest tokens in place of a text's mask, from a masked language model's logits."""

from __future__ import annotations

import numpy as np

from edgeml_core.errors import RejectedError
from edgeml_core.processing import MaskFill
from edgeml_runtime.postprocess.classification import softmax
from edgeml_runtime.tasks import FillsAnswer, Masked, Row, with_truncation
from edgeml_runtime.tensors import Array


def fills(row: Row, spec: MaskFill) -> FillsAnswer:
    """List the likeliest tokens, the highest probability first.

    Args:
        row: `spec.output` is float [vocabulary].
        spec: names the output.

    Raises:
        RejectedError: `bundle-format`, when the output has another shape, or the model takes no text with a mask.

    Source: transformers 4.57 `FillMaskPipeline`, held equal by a test.
    """
    masked, scores = row.about, probabilities(row, spec)
    if not isinstance(masked, Masked):
        raise RejectedError("bundle-format", "the postprocessing fills a mask, but the model takes no text with one")
    answer: FillsAnswer = {"fills": []}
    for token in _highest(scores, masked.top_k):
        own, whole = masked.decode(token)
        answer["fills"].append({"score": float(scores[token]), "token": token, "token_str": own, "sequence": whole})
    return with_truncation(answer, row)


def _highest(scores: Array, count: int) -> list[int]:
    """List the tokens of the highest scores; only those are sorted, since a vocabulary has up to 250,000."""
    least = np.partition(scores, -min(count, scores.size))[-min(count, scores.size)]
    tokens = np.flatnonzero(scores >= least)
    found: list[int] = tokens[np.argsort(-scores[tokens], kind="stable")][:count].tolist()
    return found


def probabilities(row: Row, spec: MaskFill) -> Array:
    """Compute the probability of each token in place of the mask, float32 [vocabulary]; see `fills`."""
    logits = row.outputs[spec.output]
    if logits.ndim != 1 or not logits.size:
        raise RejectedError("bundle-format", f"the model's scores of tokens have shape {list(logits.shape)}")
    return softmax(logits)

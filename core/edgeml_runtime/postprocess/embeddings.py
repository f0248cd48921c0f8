"""One vector for each text, from an encoder's outputs and the pooling in the manifest."""

from __future__ import annotations

import numpy as np

from edgeml_core.processing import Embedding
from edgeml_runtime.tasks import EmbeddingAnswer, Row, with_truncation
from edgeml_runtime.tensors import Array


def embedding(row: Row, spec: Embedding) -> EmbeddingAnswer:
    """Pool the vectors of the tokens without padding, and normalize the result where `spec` says so.

    Args:
        row: `spec.output` is float [tokens, size], or [size] of a model that pools.
        spec: names the output, the pooling and the normalization.
    """
    output = row.outputs[spec.output]
    if output.ndim == 2:
        count = len(row.tokens.texts) if row.tokens else len(output)
        output = _pooled(output[:count], spec.pooling)
    if spec.normalize:
        lengths = np.linalg.norm(output, axis=-1, keepdims=True)
        output = output / np.maximum(lengths, np.float32(1e-12))
    answer: EmbeddingAnswer = {"embedding": output.tolist()}
    if row.tokens:
        answer["tokens"] = len(row.tokens.texts)
    return with_truncation(answer, row)


def _pooled(vectors: Array, pooling: str) -> Array:
    match pooling:
        case "mean":
            return np.asarray(vectors.mean(axis=0, dtype=np.float32))
        case "cls":
            return np.asarray(vectors[0])
        case _:
            return vectors

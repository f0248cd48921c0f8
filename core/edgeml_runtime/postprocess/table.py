"""The function of each kind of postprocessing, from one item's outputs to its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edgeml_core.processing import (
    Boxes,
    Classes,
    Embedding,
    MaskFill,
    Postprocess,
    Span,
    TensorOutput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime import tasks
from edgeml_runtime.postprocess import classification, detection, embeddings, fill_mask, question_answering, speech
from edgeml_runtime.tasks import Answer, Row

TASKS: Final[dict[type[Postprocess], Callable[[Row, Any], Answer]]] = {
    Classes: classification.classes,
    TokenClasses: classification.token_classes,
    MaskFill: fill_mask.fills,
    Boxes: detection.boxes,
    Transcript: speech.transcript,
    Span: question_answering.span,
    Embedding: embeddings.embedding,
    TensorOutput: tasks.tensors,
}

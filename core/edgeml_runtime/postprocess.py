"""The function for each kind of postprocessing, from one item's outputs to its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edgeml_core.processing import Boxes, Classes, Embedding, Postprocess, Span, TensorOutput, TokenClasses
from edgeml_runtime import detection, embeddings, labels, spans, tasks
from edgeml_runtime.tasks import Answer, Row

TASKS: Final[dict[type[Postprocess], Callable[[Row, Any], Answer]]] = {
    Classes: labels.classes,
    TokenClasses: labels.token_classes,
    Boxes: detection.boxes,
    Span: spans.span,
    Embedding: embeddings.embedding,
    TensorOutput: tasks.tensors,
}

"""A pass over an ONNX model, with a check before it and a check after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import onnx

from edgeml_core.errors import UsageError


class Pass(Protocol):
    """One change to a model."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Explain why the pass can't run on `model`; None when it can."""
        ...

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the changed model; `model` must not be used after that."""
        ...

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Explain why the result misses the purpose of the pass; None when it doesn't."""
        ...


def run(passes: Sequence[Pass], model: onnx.ModelProto) -> onnx.ModelProto:
    """Run all passes on a model. They find nodes by name, so nodes without a name get one before each.

    Raises:
        UsageError: `model-unsupported`, when a pass can't run, fails, or misses its purpose.
    """
    for step in passes:
        _name_nodes(model.graph)
        if reason := step.requires(model):
            raise _unsupported(reason)
        try:
            model = step.call(model)
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's quantizer lets errors of its steps pass
            raise _unsupported(f"{type(step).__name__} failed: {error}") from error
        if reason := step.ensures(model):
            raise _unsupported(reason)
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}:{index}"


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs inside its nodes: the branches of an If, the body of a Loop."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from graphs(inner)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside it."""
    return (node for inner in graphs(graph) for node in inner.node)


def has(model: onnx.ModelProto, *operators: str) -> bool:
    """Return whether any node is one of `operators`."""
    return any(node.op_type in operators for node in model.graph.node)


def _unsupported(reason: str) -> UsageError:
    message = f"this recipe can't quantize the model: {reason}"
    return UsageError("model-unsupported", message, "ship fp32 with --quantize none")

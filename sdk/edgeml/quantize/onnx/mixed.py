"""The pass to mixed precision: the nodes that suffer most from int8 stay in float, found by measuring each group.

One group of neighbouring nodes at a time is quantized and the model run on real inputs; its error is the distance of
the outputs from fp32. The number of groups is bounded, not the time: a slow machine must choose as a fast one does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnx

from edgeml.quantize.onnx.embeddings import PREFIX
from edgeml.quantize.onnx.graph_pass import Pass
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.tensors import Array

#: Each costs one quantization and a run over the samples.
GROUPS_MAX: Final = 12
SAMPLES_MAX: Final = 8
#: The share of the whole squared error that the groups left in float must carry.
ERROR_SHARE: Final = 0.9
#: The share of groups that may stay in float: beyond it there is little int8 left to gain from.
GROUPS_SHARE_MAX: Final = 0.5

Inputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Another pass, with the most sensitive nodes left out of it.

    Args:
        quantizer: the pass that leaves out the nodes named.
        samples: real inputs.
        operators: what the pass quantizes.
    """

    quantizer: Callable[[Sequence[str]], Pass]
    samples: Sequence[Inputs]
    operators: tuple[str, ...]

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Real inputs, more than one node to choose from, and what the other pass requires."""
        if not self.samples:
            return "there are no inputs to measure sensitivity on"
        if len(_nodes(model, self.operators)) < 2:
            return "it has too few products and convolutions to leave some in fp32"
        return self.quantizer(()).requires(model)

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model quantized but for its most sensitive nodes."""
        groups = grouped(_nodes(model, self.operators))
        return self.quantizer(self.sensitive(model, groups)).call(model)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """As the other pass; and some nodes are still in float."""
        if not _nodes(model, self.operators):
            return "no node was left in fp32"
        return self.quantizer(()).ensures(model)

    def sensitive(self, model: onnx.ModelProto, groups: Sequence[Sequence[str]]) -> list[str]:
        """The nodes to leave in float: the fewest groups that carry `ERROR_SHARE` of the error."""
        samples = self.samples[:SAMPLES_MAX]
        expected = _answers(model, samples)
        every = [name for group in groups for name in group]
        errors = []
        for group in groups:
            quantized = self.quantizer([name for name in every if name not in group]).call(_copy(model))
            errors.append(_distance(_answers(quantized, samples), expected))
        return [name for index in worst(errors) for name in groups[index]]


def worst(errors: Sequence[float]) -> list[int]:
    """The indices of the fewest errors that carry `ERROR_SHARE` of their sum, at most `GROUPS_SHARE_MAX` of them."""
    order = sorted(range(len(errors)), key=lambda index: (-errors[index], index))
    most = max(1, int(len(errors) * GROUPS_SHARE_MAX))
    chosen: list[int] = []
    while len(chosen) < most and sum(errors[index] for index in chosen) < ERROR_SHARE * sum(errors):
        chosen.append(order[len(chosen)])
    return chosen or order[:1]


def grouped(nodes: Sequence[str]) -> list[list[str]]:
    """Neighbours in the graph's order, in at most `GROUPS_MAX` groups of nearly equal size."""
    count = min(len(nodes), GROUPS_MAX)
    return [list(part) for part in np.array_split(np.array(nodes, dtype=object), count)]


def _nodes(model: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """The nodes with constant weights that a quantizer would take."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in operators
        and len(node.input) > 1
        and node.input[1] in constant
        and not node.name.startswith(PREFIX)
    ]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def _answers(model: onnx.ModelProto, samples: Sequence[Inputs]) -> list[Array]:
    """All outputs for each sample, end to end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(_copy(model), path, save_as_external_data=True, location="model.weights")
        session = OrtSession(path, {}, threads=1)
        try:
            return [np.concatenate([it.ravel() for it in session.run(given).values()]) for given in samples]
        finally:
            session.close()


def _distance(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The squared distance as a share of the expected outputs' squared length."""
    one, other = (np.concatenate(list(arrays)).astype(np.float64) for arrays in (found, expected))
    return float(((one - other) ** 2).sum() / max(float((other**2).sum()), np.finfo(float).tiny))

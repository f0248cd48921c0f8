"""The pass to mixed precision: the nodes that suffer most from int8 stay in float, found by measuring each group.

One group of neighbouring nodes at a time is quantized, and the model run on real inputs. The group's error is the
distance of the outputs from fp32. The number of groups is bounded instead of the time, so that a slow machine chooses
as a fast one does.
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

#: Groups of nodes; each costs one quantization and a run over the samples.
GROUPS_MAX: Final = 12
#: Samples on which errors are measured; the order of the groups settles with few.
SAMPLES_MAX: Final = 8
#: Fraction of the whole squared error that is due to the groups left in float.
ERROR_FRACTION: Final = 0.9
#: Fraction of the groups that may stay in float; with more of them int8 gains little.
GROUPS_FRACTION_MAX: Final = 0.5

Inputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Run another pass on all but the most sensitive nodes.

    Args:
        quantizer: makes the pass that excludes the nodes with these names.
        samples: inputs of real requests, arrays by tensor name.
        operators: those that the pass quantizes.
    """

    quantizer: Callable[[Sequence[str]], Pass]
    samples: Sequence[Inputs]
    operators: tuple[str, ...]

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require samples, two nodes or more, and the requirements of the other pass."""
        if not self.samples:
            return "there are no inputs to measure sensitivity on"
        if len(_nodes(model, self.operators)) < 2:
            return "it has too few products and convolutions to leave some in fp32"
        return self.quantizer(()).requires(model)

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Quantize all but the most sensitive nodes."""
        groups = group(_nodes(model, self.operators))
        return self.quantizer(self.sensitive(model, groups)).call(model)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that some nodes are in float, and the purpose of the other pass."""
        if not _nodes(model, self.operators):
            return "no node was left in fp32"
        return self.quantizer(()).ensures(model)

    def sensitive(self, model: onnx.ModelProto, groups: Sequence[Sequence[str]]) -> list[str]:
        """List the nodes to leave in float: those of the fewest groups with `ERROR_FRACTION` of the error."""
        samples = self.samples[:SAMPLES_MAX]
        expected = _outputs(model, samples)
        every = [name for members in groups for name in members]
        errors = []
        for members in groups:
            quantized = self.quantizer([name for name in every if name not in members]).call(_copy(model))
            errors.append(_distance(_outputs(quantized, samples), expected))
        return [name for index in worst(errors) for name in groups[index]]


def worst(errors: Sequence[float]) -> list[int]:
    """List the fewest errors with `ERROR_FRACTION` of their sum by index, at most `GROUPS_FRACTION_MAX` of them."""
    order = sorted(range(len(errors)), key=lambda index: (-errors[index], index))
    most = max(1, int(len(errors) * GROUPS_FRACTION_MAX))
    chosen: list[int] = []
    while len(chosen) < most and sum(errors[index] for index in chosen) < ERROR_FRACTION * sum(errors):
        chosen.append(order[len(chosen)])
    return chosen or order[:1]


def group(nodes: Sequence[str]) -> list[list[str]]:
    """Split nodes in the graph's order into at most `GROUPS_MAX` groups of nearly equal size."""
    count = min(len(nodes), GROUPS_MAX)
    return [list(part) for part in np.array_split(np.array(nodes, dtype=object), count)]


def _nodes(model: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """List the nodes with constant weights that a quantizer takes."""
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


def _outputs(model: onnx.ModelProto, samples: Sequence[Inputs]) -> list[Array]:
    """Run the model on each sample and concatenate its flattened outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(_copy(model), path, save_as_external_data=True, location="model.weights")
        session = OrtSession(path, {}, threads=1)
        try:
            return [np.concatenate([it.ravel() for it in session.run(inputs).values()]) for inputs in samples]
        finally:
            session.close()


def _distance(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Compute the squared distance as a fraction of the expected outputs' squared length."""
    one, other = (np.concatenate(list(arrays)).astype(np.float64) for arrays in (found, expected))
    return float(((one - other) ** 2).sum() / max(float((other**2).sum()), np.finfo(float).tiny))

"""The PyTorch original behind the runtime's port, so that it runs through the same pre- and postprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeml_core.manifest import DTYPES, DType, TensorSpec
from edgeml_core.profile import ModelKind
from edgeml_runtime.tensors import Array


class Named(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A module called with its inputs by name, which returns its outputs by name.

    Args:
        inner: the model.
        inputs: names of the inputs, in the model's order.
        outputs: names of the outputs; empty takes all the model gives, named here.
        by_keyword: whether the model takes its inputs as keywords.
    """

    def __init__(
        self, inner: torch.nn.Module, inputs: tuple[str, ...], *, outputs: tuple[str, ...], by_keyword: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._outputs, self._by_keyword = inputs, outputs, by_keyword

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name. LiteRT takes 32-bit ids, embeddings 64-bit ones."""
        wide = {name: value.long() if value.dtype == torch.int32 else value for name, value in inputs.items()}
        given = self.inner(**wide) if self._by_keyword else self.inner(*(wide[name] for name in self._inputs))
        named = _by_name(given)
        return {name: named[name] for name in self._outputs or named}


def _by_name(given: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 -- whatever a module returns
    if isinstance(given, torch.Tensor):
        return {"output": given}
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    return {f"output_{index}": value for index, value in enumerate(given)}


class TorchSession:
    """A `Named` module in evaluation mode as a runtime session."""

    def __init__(self, module: Named) -> None:
        self._module = module.eval()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        with torch.inference_mode():
            outputs = self._module(**{name: torch.from_numpy(np.array(array)) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Nothing to free: the converters still need the module."""


def specs(tensors: Mapping[str, Array], *, lengths: bool = False) -> tuple[TensorSpec, ...]:
    """Specs of tensors with any batch size, and any length in the second dimension where `lengths`."""
    free = 2 if lengths else 1
    return tuple(
        TensorSpec(name=name, dtype=DTYPES[array.dtype.name], shape=(-1,) * free + array.shape[free:])
        for name, array in tensors.items()
    )


def dtype(tensor: torch.Tensor) -> DType:
    """The data type of a tensor.

    Raises:
        KeyError: a bundle has no such data type.
    """
    return DTYPES[str(tensor.dtype).removeprefix("torch.")]


def kind(module: torch.nn.Module) -> ModelKind:
    """`cnn` for two convolutions or more and no attention, else `encoder`.

    A vision transformer has one convolution, to cut patches; a transformer of sound several, to cut frames, which weigh
    little.
    """
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    attends = any("Attention" in type(part).__name__ for part in module.modules())
    count = sum(isinstance(part, convolutions) for part in module.modules())
    return "cnn" if count > 1 and not attends else "encoder"


def digest(module: torch.nn.Module, *files: Path) -> str:
    """The SHA-256 of all weights by name, and of files."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        whole.update(name.encode() + b"\0" + str(value.dtype).encode() + b"\0")
        whole.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for path in files:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()

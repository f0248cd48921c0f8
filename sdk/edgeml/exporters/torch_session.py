"""The PyTorch original as a runtime session, so that it has the same pre- and postprocessing as the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import DTYPES, DType, TensorSpec
from edgeml_core.profile import ModelKind
from edgeml_runtime.tensors import Array

#: Characters of an architecture's own error in a message.
ERROR_CHARS: Final = 300


class Named(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A module with inputs and outputs by name.

    Args:
        inner: the model.
        inputs: names of the inputs, in the model's order.
        outputs: names of the outputs; empty takes all of them and names them.
        by_keyword: whether the model takes its inputs as keywords.
    """

    def __init__(
        self, inner: torch.nn.Module, inputs: tuple[str, ...], *, outputs: tuple[str, ...], by_keyword: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._outputs, self._by_keyword = inputs, outputs, by_keyword

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model. LiteRT has 32-bit ids where PyTorch's embeddings take 64-bit ones."""
        wide = {name: value.long() if value.dtype == torch.int32 else value for name, value in inputs.items()}
        outputs = self.inner(**wide) if self._by_keyword else self.inner(*(wide[name] for name in self._inputs))
        named = _by_name(outputs)
        return {name: named[name] for name in self._outputs or named}


def _by_name(outputs: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 -- any structure that a module returns
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if not isinstance(outputs, tuple | list):
        return {"output": outputs}
    return {f"output_{index}": value for index, value in enumerate(outputs)}


class TorchSession:
    """A `Named` module in evaluation mode as a runtime session."""

    def __init__(self, module: Named) -> None:
        self._module = module.eval()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on arrays by tensor name, with the dtypes and shapes of its signature."""
        torch.get_num_threads()  # a new thread takes over the number that `one_thread` has set
        with torch.inference_mode():
            outputs = self._module(**{name: torch.from_numpy(np.array(array)) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Let each caller's thread compute alone: an operator's threads wait for each other, long on a busy host."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Keep the module, which the converters still need."""


@contextmanager
def first_answer(task: str, inputs: Iterable[str]) -> Iterator[None]:
    """Refuse a model that answers nothing: each architecture has errors of its own.

    Raises:
        UsageError: `model-unsupported`.
    """
    try:
        yield
    except EdgemlError:
        raise
    except Exception as error:  # noqa: BLE001 -- each architecture has its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        message = f"the model gives no answer for {task} to {', '.join(inputs)}: {why}"
        raise UsageError("model-unsupported", message, "export the part that answers as file.py:function") from None


def specs(tensors: Mapping[str, Array], *, lengths: bool = False) -> tuple[TensorSpec, ...]:
    """Make specs of arrays by tensor name, with any batch size.

    Args:
        tensors: the first axis is the batch.
        lengths: whether the second axis has any length, too.
    """
    dynamic = 2 if lengths else 1
    return tuple(
        TensorSpec(name=name, dtype=DTYPES[array.dtype.name], shape=(-1,) * dynamic + array.shape[dynamic:])
        for name, array in tensors.items()
    )


def dtype(tensor: torch.Tensor) -> DType:
    """Return the data type of a tensor.

    Raises:
        KeyError: a bundle can't have this data type.
    """
    return DTYPES[str(tensor.dtype).removeprefix("torch.")]


def kind(module: torch.nn.Module) -> ModelKind:
    """Return the kind of model: `cnn` for two convolutions or more and no attention, else `encoder`.

    A vision transformer has one convolution, for its patches. An audio transformer has several small ones for frames.
    """
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    attends = any("Attention" in type(part).__name__ for part in module.modules())
    count = sum(isinstance(part, convolutions) for part in module.modules())
    return "cnn" if count > 1 and not attends else "encoder"


def digest(module: torch.nn.Module, *files: Path) -> str:
    """Compute the SHA-256 of all weights by name, and of files."""
    sha256 = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha256.update(name.encode() + b"\0" + str(value.dtype).encode() + b"\0")
        sha256.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for path in files:
        sha256.update(hashlib.sha256(path.read_bytes()).digest())
    return sha256.hexdigest()

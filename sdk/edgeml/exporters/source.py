"""A loaded model as the later steps see it: its signature, its original to run, its module to convert. No libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeml.oracle.protocol import Reply
from edgeml_core.manifest import Format, Task, TensorSpec
from edgeml_core.processing import Postprocess, Preprocess
from edgeml_core.profile import ModelKind, RecipeName
from edgeml_runtime.engines import Session
from edgeml_runtime.tasks import Item
from edgeml_runtime.tensors import Array

if TYPE_CHECKING:
    import torch

#: The quantization recipe of a model that is not quantized.
FLOAT: Final[RecipeName] = "none"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A model's inputs and outputs, and their pre- and postprocessing."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess


@dataclass(frozen=True, kw_only=True)
class TorchModel:
    """A PyTorch model to convert.

    Args:
        module: takes the inputs and returns the outputs by name.
        pretrained: the transformers model inside, where there is one.
        is_captured: whether ONNX is made by `torch.export`, of a module that a trace can't follow.
    """

    module: torch.nn.Module
    pretrained: Any = None
    is_captured: bool = False


class Judge(Protocol):
    """The oracle of a model in this process, with hard items of its own."""

    @property
    def items(self) -> Sequence[Item]:
        """Its own items, as the bundle takes them."""
        ...

    def reply(self, items: Sequence[Item]) -> Reply:
        """Answer items by the original's own library, each alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A loaded model.

    Args:
        name: of its folder, file or function.
        kind: decides which quantization recipes suit.
        sha256: of all files and weights that the export depends on.
        signature: of the original.
        example: one input of batch 1 to trace with.
        original: runs the original, the reference of parity and accuracy.
        original_name: of the original's library, for the card.
        assets: files that go into the bundle, by their path there.
        model: the PyTorch model, or the `.onnx` file.
        tools: versions of the libraries that loaded it.
        notes: for the card, on features of the original that the bundle lacks.
        folder: of a model whose own library prepares its inputs, too, and so is asked (`edgeml.oracle`). None where
            the inputs are tensors, which `original` takes as they are.
        judge: the oracle of a model that no other process can load.
    """

    name: str
    task: Task
    kind: ModelKind
    sha256: str
    signature: Signature
    example: Mapping[str, Array]
    original: Session
    original_name: str
    assets: Mapping[str, Path]
    model: TorchModel | Path
    tools: Mapping[str, str]
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    judge: Judge | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model's files in a folder of their own, with the assets, ready to be opened as a bundle's are.

    Args:
        model: the model file's name.
        weights: names of further files of the model, where the format has them.
        recipe: of its quantization; `none` for fp32.
        notes: for the card, on how it was made.
        restored_bytes: that weights stored in int8 beside integer products take more once they are loaded as fp32.
    """

    file_format: Format
    recipe: RecipeName
    folder: Path
    model: str
    signature: Signature
    weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    restored_bytes: int = 0

    @property
    def path(self) -> Path:
        """The model file."""
        return self.folder / self.model

    @property
    def size_bytes(self) -> int:
        """The size of the model's own files, without tokenizer and golden cases."""
        return sum((self.folder / name).stat().st_size for name in (self.model, *self.weights))

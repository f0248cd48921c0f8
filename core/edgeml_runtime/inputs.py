"""From items to the tensors of one run, by the adapter that the manifest's preprocessing names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import ImageInput, Manifest, TextInput
from edgeml_runtime.requests import require_bounds
from edgeml_runtime.tasks import Image, Item, Tensors, Text, Tokens
from edgeml_runtime.tensors import Array

_Kind = TypeVar("_Kind", Text, Image, Tensors)


class Prepared(NamedTuple):
    """The tensors of one run; `tokens` has one entry for each item in it, and its tokens where it was a text."""

    tensors: dict[str, Array]
    tokens: Sequence[Tokens | None]


Preparer: TypeAlias = Callable[[Sequence[Item]], Prepared]


def preparer(folder: Path, manifest: Manifest) -> Preparer:
    """The function from the items of one run to its tensors.

    Args:
        folder: holds the manifest's files.
        manifest: its preprocessing decides.

    Raises:
        RejectedError: `bundle-format`, when preprocessing and the model's inputs don't fit each other.
        DeviceError: `store-failed`, when the tokenizer can't be read.
    """
    match manifest.preprocess:
        case TextInput() as text:
            return _texts(folder, text, manifest)
        case ImageInput() as image:
            return _images(image, manifest)
        case _:
            return _tensors


def _texts(folder: Path, text: TextInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.text import Encoder  # noqa: PLC0415 -- only text models load the tokenizers library

    encoder = Encoder(folder / text.tokenizer, text, manifest.inputs)
    return lambda items: Prepared(*encoder.encode([_require(item, Text).text for item in items]))


def _images(image: ImageInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.image import to_tensor  # noqa: PLC0415 -- only image models load Pillow

    if len(manifest.inputs) != 1:
        raise RejectedError("bundle-format", f"an image is one input, but the model has {len(manifest.inputs)}")
    if {len(image.mean), len(image.std)} - {1, image.channels}:
        raise RejectedError("bundle-format", f"mean and std don't fit {image.channels} channel(s)")
    name = manifest.inputs[0].name

    def prepare(items: Sequence[Item]) -> Prepared:
        pictures = [to_tensor(_require(item, Image).data, image) for item in items]
        return Prepared({name: np.concatenate(pictures)}, [None] * len(items))

    return prepare


def _tensors(items: Sequence[Item]) -> Prepared:
    (item,) = items
    return Prepared(_require(item, Tensors).inputs, [None])


def _require(item: Item, kind: type[_Kind]) -> _Kind:
    if not isinstance(item, kind):
        wanted, given = kind.__name__.lower(), type(item).__name__.lower()
        raise UsageError("input-invalid", f"the model takes {wanted}, not {given}", f"send {wanted}")
    require_bounds(item)
    return item

"""From items to the tensors of one run, by the adapter that the manifest's preprocessing names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import AudioInput, ImageInput, Manifest, PromptInput, QuestionInput, TextInput
from edgeml_runtime.requests import require_bounds
from edgeml_runtime.tasks import (
    About,
    Audio,
    Chat,
    Image,
    Infer,
    Item,
    LikelihoodAnswer,
    Passage,
    Picture,
    Piece,
    Prompt,
    Question,
    Tensors,
    Text,
)
from edgeml_runtime.tensors import Array

_Kind = TypeVar("_Kind", Text, Question, Prompt, Chat, Passage, Image, Audio, Tensors)


class Prepared(NamedTuple):
    """The tensors of one run; `about` has one entry for each item in it: a text's tokens, a picture's size.

    `write` is there for a prompt, whose answer takes further runs, and `weigh` for a passage, whose answer needs its
    tokens: they ask for all runs, the first one included.
    """

    tensors: dict[str, Array]
    about: Sequence[About]
    write: Callable[[Infer], Iterator[Piece]] | None = None
    weigh: Callable[[Infer], LikelihoodAnswer] | None = None


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
        case QuestionInput() as text:
            return _questions(folder, text, manifest)
        case TextInput() as text:
            return _texts(folder, text, manifest)
        case ImageInput() as image:
            return _images(image, manifest)
        case AudioInput() as audio:
            return _sounds(audio, manifest)
        case PromptInput() as prompt:
            return _prompts(folder, prompt, manifest)
        case _:
            return _tensors


def _texts(folder: Path, text: TextInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.text import Encoder  # noqa: PLC0415 -- only text models load the tokenizers library

    encoder = Encoder(folder / text.tokenizer, text, manifest.inputs)
    return lambda items: Prepared(*encoder.encode([_require(item, Text).text for item in items]))


def _questions(folder: Path, text: QuestionInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.text import Encoder  # noqa: PLC0415 -- only text models load the tokenizers library

    encoder = Encoder(folder / text.tokenizer, text, manifest.inputs)
    return lambda items: Prepared(*encoder.encode_questions([_require(item, Question) for item in items]))


def _prompts(folder: Path, prompt: PromptInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.generate import Writer, likelihood  # noqa: PLC0415 -- only text models load the tokenizers library

    writer = Writer(folder, prompt, manifest)

    def prepare(items: Sequence[Item]) -> Prepared:
        (item,) = items
        if isinstance(item, Passage):
            tensors = writer.whole(_require(item, Passage))
            return Prepared(tensors, [None], weigh=partial(likelihood, tensors, output=writer.output))
        asked = _require(item, Chat) if isinstance(item, Chat) else _require(item, Prompt)
        tensors = writer.first(asked)
        return Prepared(tensors, [None], write=partial(writer.pieces, asked, tensors))

    return prepare


def _sounds(audio: AudioInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.audio import to_tensor  # noqa: PLC0415 -- only models of sound read WAV files

    if len(manifest.inputs) != 1:
        raise RejectedError("bundle-format", f"a sound is one input, but the model has {len(manifest.inputs)}")
    name = manifest.inputs[0].name

    def prepare(items: Sequence[Item]) -> Prepared:
        (item,) = items
        return Prepared({name: to_tensor(_require(item, Audio), audio)}, [None])

    return prepare


def _images(image: ImageInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.image import seen  # noqa: PLC0415 -- only image models load Pillow

    if len(manifest.inputs) != 1:
        raise RejectedError("bundle-format", f"an image is one input, but the model has {len(manifest.inputs)}")
    if {len(image.mean), len(image.std)} - {1, image.channels}:
        raise RejectedError("bundle-format", f"mean and std don't fit {image.channels} channel(s)")
    name = manifest.inputs[0].name

    def prepare(items: Sequence[Item]) -> Prepared:
        given = [_require(item, Image) for item in items]
        pictures = [seen(one.data, image) for one in given]
        about = [
            Picture(width=picture.size[0], height=picture.size[1], threshold=one.threshold)
            for one, picture in zip(given, pictures, strict=True)
        ]
        return Prepared({name: np.concatenate([picture.tensor for picture in pictures])}, about)

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

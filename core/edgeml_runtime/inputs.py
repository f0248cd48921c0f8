"""The tensors of one run from its items, by the encoder that the manifest's preprocessing names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import (
    AudioInput,
    DecodedText,
    DecodedTranscript,
    ImageInput,
    MaskFill,
    PromptInput,
    QuestionInput,
    Span,
    TensorInput,
    TextInput,
)
from edgeml_runtime import tasks
from edgeml_runtime.engines import Session
from edgeml_runtime.postprocess import question_answering
from edgeml_runtime.requests import check_bounds
from edgeml_runtime.tasks import (
    Answer,
    Audio,
    Chat,
    Image,
    Infer,
    Item,
    ItemInfo,
    Picture,
    Prompt,
    Question,
    Row,
    ScoredText,
    Sound,
    Tensors,
    Text,
)
from edgeml_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeml_runtime.encode.text import Window
    from edgeml_runtime.generate.conversation import Conversation

#: Tells whether the client has left.
Stopped: TypeAlias = Callable[[], bool]
_Kind = TypeVar("_Kind", Text, Question, Prompt, Chat, ScoredText, Image, Audio, Tensors)


class Prepared(NamedTuple):
    """The tensors of one run; `about` has one entry for each item in it.

    The answer to a prompt takes further runs: `begin` begins it, with the first one. `answer` does all runs for a
    scored text, and for a text or a sound of which another text is written token by token. Its second argument tells
    whether the client has left. A context may take further runs: `further` takes the first one's outputs, does the
    others and yields all answers.
    """

    tensors: dict[str, Array]
    about: Sequence[ItemInfo]
    begin: Callable[[Session], Conversation] | None = None
    answer: Callable[[Session, Stopped], Answer] | None = None
    further: Callable[[Mapping[str, Array], Infer], Iterator[Answer]] | None = None


Preparer: TypeAlias = Callable[[Sequence[Item]], Prepared]


def preparer(folder: Path, manifest: Manifest) -> Preparer:
    """Make the function from the items of one run to its tensors.

    Args:
        folder: holds the manifest's files.
        manifest: gives the preprocessing and the inputs.

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
            return _sounds(folder, audio, manifest)
        case PromptInput() as prompt:
            return _prompts(folder, prompt, manifest)
        case TensorInput(missing=missing):
            return _whole_rows if missing is False else _tensors


def _texts(folder: Path, text: TextInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.encode.text import Encoder  # noqa: PLC0415 -- only text models load the tokenizers library

    spec = manifest.postprocess
    if isinstance(spec, DecodedText):
        return _rewritten(folder, text, manifest, spec)
    encoder = Encoder(folder / text.tokenizer, text, manifest.inputs)
    if isinstance(spec, MaskFill):
        return lambda items: Prepared(*encoder.masked([_expect(item, Text) for item in items], spec))
    return lambda items: Prepared(*encoder.encode([_expect(item, Text) for item in items]))


def _rewritten(folder: Path, text: TextInput, manifest: Manifest, spec: DecodedText) -> Preparer:
    from edgeml_runtime.generate.decoded_text import Rewriter  # noqa: PLC0415 -- loads the tokenizers library

    rewriter = Rewriter(folder, text, manifest.inputs, spec)

    def prepare(items: Sequence[Item]) -> Prepared:
        (item,) = items
        ids, about = rewriter.encode(_expect(item, Text))
        return Prepared(rewriter.first(ids), [about], answer=partial(rewriter.rewrite, ids, about))

    return prepare


def _questions(folder: Path, text: QuestionInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.encode.text import Encoder  # noqa: PLC0415 -- only text models load the tokenizers library

    encoder = Encoder(folder / text.tokenizer, text, manifest.inputs)
    spec = manifest.postprocess
    if not isinstance(spec, Span):
        raise RejectedError("bundle-format", "the preprocessing takes questions, but the postprocessing gives no span")

    def prepare(items: Sequence[Item]) -> Prepared:
        split = [encoder.windows(_expect(item, Question)) for item in items]
        first = [windows[0] for windows in split]
        prepared = Prepared(encoder.joined(first), [window.tokens for window in first])
        if len(first) == sum(map(len, split)):
            return prepared

        def rows(infer: Infer, windows: Sequence[Window]) -> Iterator[Row]:
            # One at a time: full windows gain nothing in a batch, and each row takes memory.
            for window in windows:
                yield from tasks.rows(infer(encoder.joined([window])), [window.tokens], spec)

        def further(outputs: Mapping[str, Array], infer: Infer) -> Iterator[Answer]:
            for row, windows in zip(tasks.rows(outputs, prepared.about, spec), split, strict=True):
                yield question_answering.best(chain([row], rows(infer, windows[1:])), spec)

        return prepared._replace(further=further)

    return prepare


def _prompts(folder: Path, prompt: PromptInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.generate.loop import Writer  # noqa: PLC0415 -- only text models load the tokenizers library

    writer = Writer(folder, prompt, manifest)

    def prepare(items: Sequence[Item]) -> Prepared:
        (item,) = items
        if isinstance(item, ScoredText):
            text = writer.text_ids(_expect(item, ScoredText))
            return Prepared(writer.tensors(text), [None], answer=lambda session, _: writer.likelihood(text, session))
        prompt_item = _expect(item, Chat) if isinstance(item, Chat) else _expect(item, Prompt)
        ids = writer.prompt_ids(prompt_item)
        return Prepared(writer.tensors(ids), [None], begin=partial(writer.begin, prompt_item, ids))

    return prepare


def _sounds(folder: Path, audio: AudioInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.encode.audio import samples_max, to_tensor  # noqa: PLC0415 -- only models of sound read WAV files

    most = samples_max(audio)
    spec = manifest.postprocess
    if isinstance(spec, DecodedTranscript):
        from edgeml_runtime.generate.transcript import Transcriber  # noqa: PLC0415 -- loads the tokenizers library

        transcriber = Transcriber(folder, manifest.inputs, spec)
    elif len(manifest.inputs) != 1:
        raise RejectedError("bundle-format", f"a sound fills one input, but the model has {len(manifest.inputs)}")
    else:
        transcriber = None

    def prepare(items: Sequence[Item]) -> Prepared:
        (item,) = items
        sound = _expect(item, Audio)
        tensor, size = to_tensor(sound, audio), sound.samples.size
        seconds, read = (count / sound.sampling_rate_hz for count in (size, min(size, most)))
        about = Sound(seconds=seconds, read=read)
        if transcriber is None:
            return Prepared({manifest.inputs[0].name: tensor}, [about])
        write = partial(transcriber.transcribe, tensor, sound.language, about)
        return Prepared(transcriber.first(tensor, sound.language), [about], answer=write)

    return prepare


def _images(image: ImageInput, manifest: Manifest) -> Preparer:
    from edgeml_runtime.encode.image import encode  # noqa: PLC0415 -- only image models load Pillow

    if len(manifest.inputs) != 1:
        raise RejectedError("bundle-format", f"an image fills one input, but the model has {len(manifest.inputs)}")
    if {len(image.mean), len(image.std)} - {1, image.channels}:
        raise RejectedError("bundle-format", f"mean and std don't fit {image.channels} channel(s)")
    name = manifest.inputs[0].name

    def prepare(items: Sequence[Item]) -> Prepared:
        given = [_expect(item, Image) for item in items]
        pictures = [encode(one.data, image) for one in given]
        about = [
            Picture(width=picture.size[0], height=picture.size[1], threshold=one.threshold)
            for one, picture in zip(given, pictures, strict=True)
        ]
        return Prepared({name: np.concatenate([picture.tensor for picture in pictures])}, about)

    return prepare


def _tensors(items: Sequence[Item]) -> Prepared:
    (item,) = items
    return Prepared(_expect(item, Tensors).inputs, [None])


def _whole_rows(items: Sequence[Item]) -> Prepared:
    """Refuse missing numbers, on which the model doesn't answer as its original."""
    prepared = _tensors(items)
    for name, array in prepared.tensors.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise UsageError("input-invalid", f"input {name!r} has a missing number", "send a number")
    return prepared


def _expect(item: Item, kind: type[_Kind]) -> _Kind:
    if not isinstance(item, kind):
        expected, given = kind.__name__.lower(), type(item).__name__.lower()
        raise UsageError("input-invalid", f"the model takes {expected}, not {given}", f"send {expected}")
    check_bounds(item)
    return item

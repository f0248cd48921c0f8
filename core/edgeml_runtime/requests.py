"""Requests in JSON, decoded to items, and their bounds.

A request is one object or a list of them. The manifest's preprocessing decides its form:

- `{"text": "..."}`, for a classifier optionally with a `"text_pair"`
- `{"text": "The capital of [MASK] is ..."}` with the mask of the model's tokenizer, optionally with `"top_k"`
- `{"question": "...", "context": "..."}`
- `{"prompt": "..."}` or `{"messages": [{"role": "user", "content": "..."}]}`
- `{"image": "<base64 of the file>"}`, for a detector optionally with a `"threshold"`
- `{"audio": "<base64 of a sound file>"}` or `{"samples": [...], "sampling_rate": 16000}`, for a decoder of speech
  optionally with its `"language"`
- `{"inputs": {"name": [[...]]}}`; a table's row may be `{"inputs": {"age": 41, "city": "Oslo"}}`
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np

from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest, TensorSpec
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Classes,
    DecodedTranscript,
    ImageInput,
    MaskFill,
    Postprocess,
    PromptInput,
    QuestionInput,
    TextInput,
)
from edgeml_runtime import tensors
from edgeml_runtime.encode import audio, sound_file
from edgeml_runtime.encode.sound_file import SAMPLES_MAX
from edgeml_runtime.generate.options import (
    Fraction,
    LogitBias,
    NewTokens,
    Penalty,
    Repetition,
    ResponseFormat,
    Stops,
    Temperature,
    TopLogprobs,
)
from edgeml_runtime.tasks import (
    Audio,
    CallingMessage,
    Chat,
    Image,
    Item,
    Message,
    Prompt,
    Question,
    ScoredText,
    Tensors,
    Text,
)

#: Items in one request; at 10 ms each, a full request is answered within 3 s.
ITEMS_MAX: Final = 256
#: Characters of one text; a tokenizer takes a few ms for them, and no model reads more than some thousand.
TEXT_MAX_CHARS: Final = 100_000
#: Bytes of one image file; a camera's JPEG files are smaller.
IMAGE_MAX_BYTES: Final = 32 * 1024 * 1024
#: Samples of all sounds in one request. Compressed files are small, so the body's length doesn't bound them.
TOGETHER_SAMPLES_MAX: Final = 2 * SAMPLES_MAX
#: Largest sample: full scale is 1, and of 32-bit integers 2**31. Beyond it, mean and variance overflow in float32.
SAMPLE_MAX: Final = 2.0**31
#: Tokens that fill one mask; each brings the whole text once more.
FILLS_MAX: Final = 100
#: Messages of one conversation; their texts together keep TEXT_MAX_CHARS.
MESSAGES_MAX: Final = 256

Messages = Annotated[tuple[Message, ...], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]


class ImageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture: its file in base64."""

    image: str


class DetectionRequest(ImageRequest, frozen=True, forbid_unknown_fields=True):
    """A picture to find objects in, and the least score of an object; None takes the model's threshold."""

    threshold: Fraction | None = None


class TextRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text."""

    text: str


class PairRequest(TextRequest, frozen=True, forbid_unknown_fields=True):
    """A text for a classifier, alone or with the second one of a pair."""

    text_pair: str | None = None


class FillRequest(TextRequest, frozen=True, forbid_unknown_fields=True):
    """A text with one mask, and the number of tokens to fill it with; None takes the model's own."""

    top_k: Annotated[int, msgspec.Meta(ge=1, le=FILLS_MAX)] | None = None


class QuestionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question and the text that holds its answer."""

    question: str
    context: str


class Continued(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a generated text."""

    max_new_tokens: NewTokens = 32
    temperature: Temperature = 0.0
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    top_p: Fraction = 1.0
    stop: Stops = ()
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    min_p: Fraction = 0.0
    repetition_penalty: Repetition = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = {}
    logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None

    def options(self) -> dict[str, Any]:
        """Return the fields of the item."""
        fields = msgspec.structs.asdict(self)
        form: ResponseFormat | None = fields.pop("response_format")
        return {**fields, "constraint": form and form.constraint()}


class PromptRequest(Continued, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The beginning of a text."""

    prompt: str


class ChatRequest(Continued, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A conversation."""

    messages: Messages


class AudioRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sound: a file in base64, or `samples` and their rate in Hz."""

    audio: str | None = None
    samples: list[float] | None = None
    sampling_rate: int | None = None


class SpeechRequest(AudioRequest, frozen=True, forbid_unknown_fields=True):
    """A sound, and the language of its speech as ISO 639's code; None lets the model find it."""

    language: str | None = None


class TensorsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's inputs by name, as nested lists."""

    inputs: dict[str, object]


#: Every kind of request, one for each form of input.
KINDS: Final[tuple[type[msgspec.Struct], ...]] = (
    TextRequest,
    PairRequest,
    FillRequest,
    QuestionRequest,
    PromptRequest,
    ChatRequest,
    ImageRequest,
    DetectionRequest,
    AudioRequest,
    SpeechRequest,
    TensorsRequest,
)
_Request = TypeVar("_Request", bound=msgspec.Struct)
#: The forms of a recording, for hints.
_AUDIO: Final = '{"audio": "<base64 of a sound file>"} or {"samples": [...], "sampling_rate": 16000}'


def parse(request: object, manifest: Manifest) -> list[Item]:
    """Convert a decoded JSON request to items.

    Raises:
        UsageError: `input-invalid`, when it is not of the kind that the model takes, or too much: see `collect`.
    """
    values = request if isinstance(request, list) else [request]
    check_count(len(values))
    return collect(_item(value, manifest) for value in values)


def from_bytes(content: bytes, manifest: Manifest) -> Item:
    """Convert a text's or a file's bytes to an item.

    Raises:
        UsageError: `input-invalid`, when the model takes neither texts nor files.
    """
    match manifest.preprocess:
        case QuestionInput() | PromptInput():
            raise UsageError("input-invalid", "this model takes more than one text", "send a JSON request")
        case TextInput():
            try:
                return Text(content.decode())
            except UnicodeDecodeError as error:
                raise UsageError("input-invalid", f"the text is not UTF-8: {error}") from error
        case ImageInput():
            return Image(content)
        case AudioInput(sampling_rate_hz=rate_hz):
            return audio.read(content, rate_hz)
        case _:
            raise UsageError("input-invalid", "the model takes tensors, not texts or files")


def check_count(count: int) -> None:
    """Check the number of items in one request.

    Raises:
        UsageError: `input-invalid`, when there is none or more than `ITEMS_MAX`.
    """
    if not 1 <= count <= ITEMS_MAX:
        raise UsageError("input-invalid", f"the request has {count} items", f"send 1 to {ITEMS_MAX} at a time")


def collect(items: Iterable[Item]) -> list[Item]:
    """Return the items of a request, whose size together is checked while they are made.

    Raises:
        UsageError: `input-invalid`, when there are more than `ITEMS_MAX`, their sounds are too long, or their images
            have too many pixels.
    """
    found, samples = list[Item](), 0
    for item in items:
        samples += item.samples.size if isinstance(item, Audio) else 0
        _check_at_most(TOGETHER_SAMPLES_MAX, samples, "the request", "samples in all its sounds")
        found.append(item)
    check_count(len(found))
    files = [item.data for item in found if isinstance(item, Image)]
    if len(files) > 1:  # one has a bound of its own
        from edgeml_runtime.encode import image  # noqa: PLC0415 -- only image models load Pillow

        image.check_together(files)
    return found


def check_bounds(item: Item) -> None:
    """Check the size of one item.

    Raises:
        UsageError: `input-invalid`, when a text, a recording or an image file is too long, a recording too loud, or
            the second text of a pair empty.
    """
    match item:
        case Tensors(inputs=arrays):  # `from_nested` has checked the numbers
            texts = (text for array in arrays.values() if array.dtype == object for text in array.flat)
            _check_at_most(TEXT_MAX_CHARS, sum(map(len, texts)), "the row", "characters")
        case Text(text=text, text_pair=str(pair)):
            _check_at_most(TEXT_MAX_CHARS, len(text) + len(pair), "the pair of texts", "characters")
            if not pair:  # transformers takes the first text alone then, sentence-transformers both
                raise UsageError("input-invalid", "the second text is empty", "leave text_pair out, or send its text")
        case Text(text=text) | Prompt(prompt=text) | ScoredText(text=text):
            _check_at_most(TEXT_MAX_CHARS, len(text), "the text", "characters")
        case Question(question=question, context=context):
            _check_at_most(TEXT_MAX_CHARS, len(question) + len(context), "the question with its context", "characters")
        case Chat(messages=messages, tools=tools):
            calls = (call.arguments for it in messages if isinstance(it, CallingMessage) for call in it.calls)
            written = sum(len(msgspec.json.encode(it)) for it in (*calls, *(tools.given if tools else ())))
            count = sum(len(it.content) for it in messages) + written
            _check_at_most(TEXT_MAX_CHARS, count, "the conversation", "characters")
        case Image(data=data):
            _check_at_most(IMAGE_MAX_BYTES, len(data), "the image", "bytes")
        case Audio(samples=samples):
            _check_at_most(SAMPLES_MAX, samples.size, "the sound", "samples")
            if not np.all(np.abs(samples) <= SAMPLE_MAX):  # false for NaN, too
                hint = "send numbers between -1 and 1"
                raise UsageError("input-invalid", "audio sample out of range (NaN or above 2**31)", hint)


def _check_at_most(most: int, count: int, name: str, unit: str) -> None:
    if count > most:
        raise UsageError("input-invalid", f"{name} has {count} {unit}", f"send {most} at most")


def _item(value: object, manifest: Manifest) -> Item:
    match manifest.preprocess:
        case QuestionInput():
            request = _read(value, QuestionRequest, '{"question": "...", "context": "..."}')
            return Question(request.question, request.context)
        case PromptInput():
            return _prompt(value)
        case AudioInput(sampling_rate_hz=rate_hz):
            return _sound(value, rate_hz, decodes=isinstance(manifest.postprocess, DecodedTranscript))
        case TextInput():
            return _text(value, manifest.postprocess)
        case ImageInput():
            return _image(value, detects=isinstance(manifest.postprocess, Boxes))
        case _:
            inputs = _read(value, TensorsRequest, '{"inputs": {"name": nested list}}').inputs
            specs = {spec.name: spec for spec in manifest.inputs}
            null = getattr(manifest.preprocess, "missing", False) is True
            if unknown := sorted(inputs.keys() - specs.keys()):
                names = ", ".join(specs)
                raise UsageError("input-invalid", f"there is no input {unknown[0]!r}", f"the model takes {names}")
            return Tensors({name: tensors.from_nested(specs[name], it, missing=null) for name, it in inputs.items()})


def _text(value: object, postprocess: Postprocess) -> Text:
    match postprocess:
        case Classes():
            pair = _read(value, PairRequest, '{"text": "..."} or {"text": "...", "text_pair": "..."}')
            return Text(pair.text, pair.text_pair)
        case MaskFill(mask=mask):
            fill = _read(value, FillRequest, f'{{"text": "... {mask} ...", "top_k": 5}}')
            return Text(fill.text, top_k=fill.top_k)
        case _:
            return Text(_read(value, TextRequest, '{"text": "..."}').text)


def _image(value: object, *, detects: bool) -> Image:
    if detects:
        request = _read(value, DetectionRequest, '{"image": "<base64 of the file>", "threshold": 0.5}')
        return Image(_decoded(request.image), request.threshold)
    return Image(_decoded(_read(value, ImageRequest, '{"image": "<base64 of the file>"}').image))


def _prompt(value: object) -> Item:
    if isinstance(value, dict) and "messages" in value:
        chat = _read(value, ChatRequest, '{"messages": [{"role": "user", "content": "..."}], "max_new_tokens": 32}')
        return Chat(**chat.options())
    prompt = _read(value, PromptRequest, '{"prompt": "...", "max_new_tokens": 32, "temperature": 0, "seed": 0}')
    return Prompt(**prompt.options())


def _sound(value: object, rate_hz: int, *, decodes: bool) -> Audio:
    if not decodes:
        return _audio(_read(value, AudioRequest, _AUDIO), rate_hz)
    request = _read(value, SpeechRequest, _AUDIO)
    return msgspec.structs.replace(_audio(request, rate_hz), language=request.language)


def _audio(request: AudioRequest, rate_hz: int) -> Audio:
    match request:
        case AudioRequest(audio=str(text), samples=None, sampling_rate=None):
            return audio.read(_decoded(text), rate_hz)
        case AudioRequest(audio=None, samples=list(samples), sampling_rate=int(own_hz)):
            spec = TensorSpec(name="samples", dtype="float32", shape=(-1,))
            return sound_file.resampled(Audio(tensors.from_nested(spec, samples), own_hz), rate_hz)
        case _:
            raise UsageError("input-invalid", "the request is neither a file nor samples with their rate", _AUDIO)


def _read(value: object, kind: type[_Request], example: str) -> _Request:
    try:
        return decoding.convert(value, kind, str_keys=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", f"send {example}") from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("input-invalid", f"the file is not base64: {error}", "encode the file's bytes") from error

"""What a bundle's manifest says of the way from an item to the model's inputs, and from its outputs to an answer.

How it is done is the runtime's business; which parts go together, `manifest` checks.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class TextInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Text through a `tokenizer.json`. `pad_to` are the fixed lengths compiled in; empty means any length."""

    tokenizer: str
    max_length: int
    pad_to: tuple[int, ...] = ()
    pad_id: int = 0


class QuestionInput(TextInput, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="question"):
    """A question and the context that holds its answer, as one pair; too long a context is read part by part."""


class ChatTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How messages become a prompt: `between[A][B]` stands before a message of role B that comes after one of role A.

    The empty role is the outside: `between[""][B]` begins the prompt, `between[A][""]` ends it, where the answer is to
    begin. Messages in an order whose pairs aren't there are not taken. With `trim` they lose white space at their ends.
    """

    between: dict[str, dict[str, str]]
    trim: bool = False


class PromptInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="prompt"):
    """The beginning of a text that the model goes on with; prompt and answer have at most `max_length` tokens."""

    tokenizer: str
    max_length: int
    chat: ChatTemplate | None = None


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image"):
    """An image resized to `height` x `width` pixels, times `rescale`, minus `mean`, over `std` per channel."""

    height: int
    width: int
    channels: Literal[1, 3]
    layout: Literal["NCHW", "NHWC"]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    #: Shortest edge in pixels to resize to before a centre crop; 0 resizes to the exact size.
    resize_shortest_edge: int = 0


class MelSpectrum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logarithms of `bins` mel bands in `frames` frames of 25 ms every 10 ms, minus `mean`, over twice `std`."""

    bins: int
    frames: int
    mean: float
    std: float


class AudioInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="audio"):
    """Sound in one channel, as samples or as a `mel` spectrum.

    Shorter than `min_samples` is refused, longer than `max_samples` cut. `normalize` gives samples the mean 0 and the
    variance 1. `pad_to` are the fixed lengths compiled in, in samples; empty means any length.
    """

    sampling_rate_hz: int
    min_samples: int
    max_samples: int
    normalize: bool = False
    pad_to: tuple[int, ...] = ()
    mel: MelSpectrum | None = None


class TensorInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensors"):
    """Tensors by name, as they are."""


#: What makes scores of logits.
Activation = Literal["softmax", "sigmoid", "none"]


class Classes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="classes"):
    """Scores over `labels` from the logits of `output`."""

    output: str
    labels: tuple[str, ...]
    activation: Activation


class TokenClasses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="token-classes"):
    """A label for each token from the logits of `output`."""

    output: str
    labels: tuple[str, ...]


class Span(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="span"):
    """The part of the context that answers the question, of at most `max_tokens`, from two outputs' logits."""

    start: str
    end: str
    max_tokens: int


class Boxes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="boxes"):
    """Objects in a picture: a label from the outputs `logits` and a box from `boxes` for each that is surer than given.

    The logits have one class more than `labels`, the last: no object. A box is its middle, width and height (`cxcywh`),
    in shares of the picture's own.
    """

    logits: str
    boxes: str
    labels: tuple[str, ...]
    threshold: float = 0.5
    form: Literal["cxcywh"] = "cxcywh"


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="embedding"):
    """One vector a text, pooled from the token vectors of `output`."""

    output: str
    pooling: Literal["mean", "cls", "none"]
    normalize: bool


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="generation"):
    """The text that follows a prompt, token by token from the logits of `output`, until one of `stop_ids`.

    `past` and `present` are the inputs and outputs that carry the attention's keys and values from token to token.
    """

    output: str
    stop_ids: tuple[int, ...]
    past: tuple[str, ...]
    present: tuple[str, ...]


class TensorOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensors"):
    """The output tensors by name, as they are."""


Preprocess = TextInput | QuestionInput | PromptInput | ImageInput | AudioInput | TensorInput
Postprocess = Classes | TokenClasses | Span | Boxes | Embedding | Generation | TensorOutput


def outputs_named(postprocess: Postprocess) -> tuple[str, ...]:
    """The outputs that a postprocessing reads; none where it takes all."""
    match postprocess:
        case Span(start=start, end=end):
            return start, end
        case Boxes(logits=logits, boxes=boxes):
            return logits, boxes
        case Generation(output=output, present=present):
            return output, *present
        case TensorOutput():
            return ()
        case _:
            return (postprocess.output,)

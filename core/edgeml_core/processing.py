"""Preprocessing and postprocessing in a bundle's manifest: from an item to inputs, from outputs to an answer.

`edgeml_runtime` does both; `manifest` checks which parts fit together.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from edgeml_core.tool_template import ToolTemplate


class TextInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Text through a `tokenizer.json`. `pad_to` are the compiled lengths in tokens; empty means any length.

    `prompt` is put before each text. `cut` is the side at which a text loses what is beyond `max_length`: the right one
    where it is left out. Both are left out where they say nothing, so that agents which don't know them take such a
    bundle.
    """

    tokenizer: str
    max_length: int
    pad_to: tuple[int, ...] = ()
    pad_id: int = 0
    prompt: str | msgspec.UnsetType = msgspec.UNSET
    cut: Literal["left"] | msgspec.UnsetType = msgspec.UNSET


class QuestionInput(TextInput, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="question"):
    """A question and the context that has its answer, as one pair; a context that is too long is read in parts."""


class ChatTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The text between chat messages: `between[A][B]` precedes a message of role B after one of role A.

    The empty role is the outside: `between[""][B]` begins the prompt, and `between[A][""]` ends it, where the answer
    begins. Messages in an order whose pairs are absent are refused. With `trim` messages lose white space at their
    ends. `tools` is for requests with tools; it is left out where the template has none, so that agents which don't
    know it take such a bundle.
    """

    between: dict[str, dict[str, str]]
    trim: bool = False
    tools: ToolTemplate | msgspec.UnsetType = msgspec.UNSET


class PromptInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="prompt"):
    """The beginning of a text that the model continues; prompt and answer have at most `max_length` tokens."""

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
    #: Pixels of the shortest edge after resizing, before a centre crop; 0 resizes to the exact size.
    resize_shortest_edge: int = 0
    #: Height and width in pixels after resizing, before a centre crop. It and `bgr`, blue first, are left out where
    #: they don't apply, so that agents which don't know them take such a bundle.
    resize_to: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    bgr: bool | msgspec.UnsetType = msgspec.UNSET
    #: Whether the crop's corner is rounded half to even, as torchvision does; else down. Left out where no rounding is
    #: needed, too.
    corner_half_even: bool | msgspec.UnsetType = msgspec.UNSET


class MelSpectrum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logarithms of `bins` mel bands in `frames` frames of 25 ms every 10 ms, minus `mean`, over twice `std`."""

    bins: int
    frames: int
    mean: float
    std: float


class LogMel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whisper's spectrum: logarithms of `bins` mel bands every 10 ms, of sound that silence fills up to `samples`."""

    bins: int
    samples: int


class AudioInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="audio"):
    """Sound in one channel, as samples, as a `mel` spectrum or as Whisper's.

    Sound with fewer than `min_samples` is refused, with more than `max_samples` cut. `normalize` gives samples the mean
    0 and the variance 1. `pad_to` are the compiled lengths in samples; empty means any length.
    """

    sampling_rate_hz: int
    min_samples: int
    max_samples: int
    normalize: bool = False
    pad_to: tuple[int, ...] = ()
    mel: MelSpectrum | None = None
    #: Left out where it doesn't apply, so that agents which don't know it take such a bundle.
    log_mel: LogMel | msgspec.UnsetType = msgspec.UNSET


class TensorInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensors"):
    """Tensors by name, as they are.

    `missing` is set for a table's rows: whether the model takes missing numbers, NaN or null. It is left out for other
    models, so that agents which don't know it take such a bundle.
    """

    missing: bool | msgspec.UnsetType = msgspec.UNSET


#: The function that turns logits into scores.
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


class MaskFill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mask-fill"):
    """The likeliest tokens in place of the one `mask` of a text, from the logits of `output` over the vocabulary.

    The model itself takes the row of the mask. `clean_up` drops the spaces before punctuation in the decoded text, as
    some tokenizers of transformers do.
    """

    output: str
    mask: str
    clean_up: bool = False


class Span(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="span"):
    """The part of the context that answers the question, of at most `max_tokens`, from two outputs' logits."""

    start: str
    end: str
    max_tokens: int


class Boxes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="boxes"):
    """Objects in an image: a label from `logits` and a box from `boxes` for each with a score above `threshold`.

    The logits have one class more than `labels`, the last: no object. A box is its centre, width and height (`cxcywh`),
    as fractions of the image's size.
    """

    logits: str
    boxes: str
    labels: tuple[str, ...]
    threshold: float = 0.5
    form: Literal["cxcywh"] = "cxcywh"


class Transcript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="transcript"):
    """The text of a sound, from the logits of `output` over `tokens` in each frame: CTC's best path.

    A token counts once for the neighbouring frames that have it, and `blank` for nothing. `delimiter` becomes `space`.
    `clean_up` drops the spaces before punctuation, as some tokenizers of transformers do.
    """

    output: str
    tokens: tuple[str, ...]
    blank: str
    delimiter: str
    space: str = " "
    lowercase: bool = False
    clean_up: bool = False


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="embedding"):
    """One vector per text, pooled from the token vectors of `output`."""

    output: str
    pooling: Literal["mean", "cls", "none"]
    normalize: bool


#: Inputs of a language model, integers: ids and their positions [1, tokens]; the mask [1, all tokens].
INPUT_IDS: Final = "input_ids"
POSITIONS: Final = "position_ids"
MASK: Final = "attention_mask"
#: Further inputs of one that writes its cache in place: one less than the tokens so far [1], the tokens so far [1], and
#: the numbers of the new tokens whose logits are wanted [wanted].
LAST_TOKEN: Final = "seqlens_k"  # noqa: S105 -- a word of a text
TOKENS_SO_FAR: Final = "total_sequence_length"
LOGITS_AT: Final = "logits_at"


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="generation"):
    """The text that follows a prompt, token by token from the logits of `output`, until one of `stop_ids`.

    `past` and `present` are the inputs and outputs that pass the attention's keys and values from token to token,
    float32 [1, heads, tokens, size]. With `in_place` both may be the same memory, in which a run writes behind the
    tokens before it. The model then takes the number of tokens so far, and which of the new ones need logits.
    """

    output: str
    stop_ids: tuple[int, ...]
    past: tuple[str, ...]
    present: tuple[str, ...]
    in_place: bool = False


#: The tokens of a decoder beside an encoder, integers [1, tokens]; its other inputs are `POSITIONS`, keys and values.
DECODER_IDS: Final = "decoder_input_ids"


class Decoded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text that a decoder writes of what its encoder reads: the likeliest token each time, by the logits of `output`.

    The decoder begins with the tokens `start`. It writes until one of `stop_ids`, or until there are `max_tokens` in
    all. It never writes `suppressed` tokens, nor `suppressed_first` ones as the first.

    `past` and `present` are as in `Generation`. `cross` and `cross_present` pass the keys and values that the encoder
    makes. Its text or sound is an input of the first run alone; in later ones it has no tokens or frames.
    """

    output: str
    tokenizer: str
    past: tuple[str, ...]
    present: tuple[str, ...]
    cross: tuple[str, ...]
    cross_present: tuple[str, ...]
    start: tuple[int, ...]
    stop_ids: tuple[int, ...]
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    max_tokens: int


class DecodedTranscript(Decoded, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="decoded-transcript"):
    """The text of a sound, as Whisper's decoder writes it.

    Behind `start` stand the token of a language, if there are `languages`, and `task`. Tokens from `times_from` on are
    times and no text.
    """

    task: tuple[int, ...]
    #: Tokens by ISO 639's codes. The likeliest one is taken, unless `language` or the request names another.
    languages: dict[str, int] = {}
    language: str | None = None
    times_from: int
    clean_up: bool = False


class DecodedText(Decoded, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="decoded-text"):
    """A text made of another one, such as its translation or its summary.

    It has `min_tokens` at least, the first ones included. No sequence of `no_repeat` tokens stands in it twice, and
    none of `no_repeat_read` tokens of the other text; 0 allows all. `repetition_penalty` divides positive logits of
    tokens that stand in it, and multiplies negative ones.
    """

    min_tokens: int = 0
    no_repeat: int = 0
    no_repeat_read: int = 0
    repetition_penalty: float = 1.0


class TensorOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensors"):
    """The output tensors by name, as they are."""


Preprocess = TextInput | QuestionInput | PromptInput | ImageInput | AudioInput | TensorInput
Postprocess = (
    Classes
    | TokenClasses
    | MaskFill
    | Span
    | Boxes
    | Transcript
    | DecodedTranscript
    | DecodedText
    | Embedding
    | Generation
    | TensorOutput
)


def outputs_named(postprocess: Postprocess) -> tuple[str, ...]:
    """Return the outputs that a postprocessing reads; empty if it takes all."""
    match postprocess:
        case Span(start=start, end=end):
            return start, end
        case Boxes(logits=logits, boxes=boxes):
            return logits, boxes
        case Generation(output=output, present=present):
            return output, *present
        case Decoded(output=output, present=present, cross_present=cross_present):
            return output, *present, *cross_present
        case TensorOutput():
            return ()
        case _:
            return (postprocess.output,)

"""Items and answers: the input and output types of all tasks, and the rows of a run between them.

`postprocess` has one function for each kind of answer. There is no class for a model family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict, TypeVar

import msgspec
import numpy as np

from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.processing import Postprocess, TensorOutput, outputs_named
from edgeml_runtime.generate.options import CallDelta, Continuation, ToolCall, Tools, WrittenToken
from edgeml_runtime.tensors import Array


class Text(msgspec.Struct, frozen=True):
    """One text, or two for a classifier of pairs: a query and a document, a premise and a claim.

    `top_k` is the number of tokens that fill the mask of a text; None takes `FILLS_DEFAULT`.
    """

    text: str
    text_pair: str | None = None
    top_k: int | None = None


class Image(msgspec.Struct, frozen=True):
    """One picture: the bytes of its file, and a detector's threshold; None takes the model's own."""

    data: bytes
    threshold: float | None = None


class Question(msgspec.Struct, frozen=True):
    """One question and the text that holds its answer."""

    question: str
    context: str


class Prompt(Continuation, frozen=True, kw_only=True):
    """The beginning of a text."""

    prompt: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: str
    content: str


class CallingMessage(Message, frozen=True, kw_only=True):
    """The assistant's message with calls of tools, and perhaps a text."""

    calls: tuple[ToolCall, ...]


class ResultMessage(Message, frozen=True, kw_only=True):
    """The result of one call."""

    call_id: str


class Chat(Continuation, frozen=True, kw_only=True):
    """A conversation, of which the model writes the next message; its messages may have calls where it has `tools`."""

    messages: tuple[Message, ...]
    tools: Tools | None = None


class ScoredText(msgspec.Struct, frozen=True):
    """A whole text, of which a language model computes the likelihood. Only checks on the host use it."""

    text: str


class Audio(msgspec.Struct, frozen=True):
    """One recording in one channel: float32 samples between -1 and 1, and the language of its speech, if known."""

    samples: Array
    sampling_rate_hz: int
    language: str | None = None


class Tensors(msgspec.Struct, frozen=True):
    """One set of the model's inputs: arrays by tensor name, with the dtypes and shapes of the manifest."""

    inputs: dict[str, Array]


#: Tokens that fill a mask where the request names no number.
#: Source: transformers 4.57 `FillMaskPipeline`, its default.
FILLS_DEFAULT: Final = 5

Item = Text | Question | Prompt | Chat | ScoredText | Image | Audio | Tensors


class LabelScore(TypedDict):
    """A label and its score, a probability where the model gives one."""

    label: str
    score: float


class Truncated(TypedDict):
    """A text or a sound longer than its model takes: of all its `tokens` or `seconds` the first `read` were used."""

    tokens: NotRequired[int]
    seconds: NotRequired[float]
    read: float


class Cut(TypedDict):
    """An answer to a text or a sound; `truncated` is present only when the model didn't read all of it."""

    truncated: NotRequired[Truncated]


class ClassesAnswer(Cut):
    """Every label, the highest score first."""

    labels: list[LabelScore]


class TokenLabel(TypedDict):
    """One token's label of the highest score; `start` and `end` are character offsets into the text, end excluded."""

    token: str
    start: int
    end: int
    label: str
    score: float


class TokensAnswer(Cut):
    """The tokens in order, without the special ones."""

    tokens: list[TokenLabel]


class Fill(TypedDict):
    """One token in place of the mask: its id, its probability, its text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class FillsAnswer(Cut):
    """The likeliest tokens in place of the mask, the highest score first."""

    fills: list[Fill]


class Box(TypedDict):
    """Edges in pixels of the picture as sent, upright. A model may put them outside of it."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Found(TypedDict):
    """One object, its score and its place."""

    label: str
    score: float
    box: Box


class BoxesAnswer(TypedDict):
    """The objects, the highest score first."""

    boxes: list[Found]


class SpanAnswer(TypedDict):
    """The answer as it stands in the context; `start` and `end` are character offsets into it, end excluded."""

    answer: str
    start: int
    end: int
    score: float


class WrittenAnswer(Cut):
    """The text of a sound, and its language where the model knows several; or a text made of another one."""

    text: str
    language: NotRequired[str]


Finish = Literal["stop", "length"]


class TextAnswer(TypedDict):
    """The continuation of a prompt, its number of tokens, and why it ended: a `stop`, or the `length` allowed.

    `logprobs` has each token that was written, where the request asks for them.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finish: Finish
    logprobs: NotRequired[list[WrittenToken]]


class TokenDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The text that one more token adds to an answer, perhaps none; `finish` is set in the last one only.

    `tokens` counts those written until now, `prompt_tokens` those of the prompt. `logprob` is there where the request
    asks for it, except for a token that ends the text. Calls of tools are no part of the text.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finish: Finish | None = None
    logprob: WrittenToken | None = None
    calls: tuple[CallDelta, ...] = ()


class LikelihoodAnswer(TypedDict):
    """The natural logarithm of a text's likelihood given its first token, and the number of the other tokens."""

    log_likelihood: float
    tokens: int


class EmbeddingAnswer(Cut):
    """One vector, or one for each token with pooling `none`; `tokens` counts the tokens read of a text."""

    embedding: list[Any]
    tokens: NotRequired[int]


class TensorsAnswer(TypedDict):
    """The outputs by name as nested lists."""

    outputs: dict[str, Any]


Answer: TypeAlias = (
    ClassesAnswer
    | TokensAnswer
    | FillsAnswer
    | BoxesAnswer
    | WrittenAnswer
    | SpanAnswer
    | TextAnswer
    | LikelihoodAnswer
    | EmbeddingAnswer
    | TensorsAnswer
)

Cuttable = TypeVar("Cuttable", ClassesAnswer, TokensAnswer, FillsAnswer, WrittenAnswer, EmbeddingAnswer)

#: One run of a model: inputs by tensor name to outputs by tensor name.
Infer: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """One text's tokens without padding.

    Attributes:
        texts: of each token.
        spans: of each token, character offsets into the text, end excluded.
        special: of each token, whether the tokenizer added it.
        context: of a question, the text that holds its answer; `spans` are of it.
        words: of each token of the context, the span of the word around it; None for the other tokens.
        unread: the number of further tokens, which the model didn't read.
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    context: str = ""
    words: tuple[tuple[int, int] | None, ...] = ()
    unread: int = 0


class Masked(Tokens, frozen=True, kw_only=True):
    """One text's tokens with a mask among them.

    Attributes:
        top_k: the number of tokens requested for it.
        decode: from a token's id to its text, and to the whole text with it in place of the mask.
    """

    top_k: int
    decode: Callable[[int], tuple[str, str]]


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture's own size in pixels, and the threshold of its request."""

    width: int
    height: int
    threshold: float | None = None


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """The length of a sound in seconds, and the part of it that the model reads."""

    seconds: float
    read: float


#: The facts of an item that postprocessing needs.
ItemInfo: TypeAlias = Tokens | Picture | Sound | None


def truncated(about: ItemInfo) -> Truncated | None:
    """Return how much of an item the model read; None when it read all."""
    match about:
        case Tokens(texts=texts, unread=unread) if unread:
            return {"tokens": len(texts) + unread, "read": len(texts)}
        case Sound(seconds=seconds, read=read) if read < seconds:
            return {"seconds": seconds, "read": read}
        case _:
            return None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One item's outputs: arrays by tensor name without the batch axis, and the facts of the item."""

    outputs: Mapping[str, Array]
    about: ItemInfo = None

    @property
    def tokens(self) -> Tokens | None:
        """The tokens, if the item was a text."""
        return self.about if isinstance(self.about, Tokens) else None


def rows(outputs: Mapping[str, Array], about: Sequence[ItemInfo], spec: Postprocess) -> list[Row]:
    """Split the outputs of one run into items.

    Args:
        outputs: arrays by tensor name; the first axis is the item.
        about: the facts of each item.
        spec: names the outputs that are used; without names all are.

    Raises:
        UsageError: `input-invalid`, when an output doesn't have one row for each item.
        DeviceError: `runtime-failed`, when an output that becomes an answer has NaN.
    """
    used = {name: outputs[name] for name in outputs_named(spec) or outputs}
    for name, array in used.items():
        if array.shape[:1] != (len(about),):
            raise UsageError(
                "input-invalid",
                f"output {name!r} has shape {list(array.shape)} for {len(about)} item(s)",
                "send one item at a time, with a batch dimension of one",
            )
        if array.dtype.kind == "f" and not isinstance(spec, TensorOutput) and np.isnan(array).any():
            raise DeviceError("runtime-failed", f"the model's output {name!r} has NaN", "try other input")
    return [
        Row(outputs={name: array[index] for name, array in used.items()}, about=item)
        for index, item in enumerate(about)
    ]


def join(deltas: Iterable[TokenDelta]) -> TextAnswer:
    """Join the deltas of an answer."""
    received = list(deltas)
    last = received[-1]
    answer: TextAnswer = {
        "text": "".join(delta.text for delta in received),
        "prompt_tokens": last.prompt_tokens,
        "tokens": last.tokens,
        "finish": last.finish or "length",
    }
    if logprobs := [delta.logprob for delta in received if delta.logprob]:
        answer["logprobs"] = logprobs
    return answer


def tensors(row: Row, spec: TensorOutput) -> TensorsAnswer:  # noqa: ARG001 -- the signature of all functions in the table
    """Convert the outputs to nested lists."""
    return {"outputs": {name: array.tolist() for name, array in row.outputs.items()}}


def with_truncation(answer: Cuttable, row: Row) -> Cuttable:
    """Add to an answer how much of its text or sound was read, unless that was all."""
    if cut := truncated(row.about):
        answer["truncated"] = cut
    return answer

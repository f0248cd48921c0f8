"""What goes into a task and what comes out: items, answers, and functions from a model's outputs to answers.

One function for each kind of postprocessing, no class for a model family. Those of more than a few lines have a file of
their own; `postprocess` has the table of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, TypeVar

import msgspec
import numpy as np

from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.processing import Postprocess, TensorOutput, outputs_named
from edgeml_runtime.tensors import Array


class Text(msgspec.Struct, frozen=True):
    """One text."""

    text: str


class Image(msgspec.Struct, frozen=True):
    """One picture: the bytes of its file; and how sure of an object a detector has to be, where it isn't as usual."""

    data: bytes
    threshold: float | None = None


class Question(msgspec.Struct, frozen=True):
    """One question and the text that holds its answer."""

    question: str
    context: str


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """How a text is gone on with, until the model ends it or one of `stop` comes.

    At temperature 0 by the likeliest token each time; else it is drawn, from the likeliest that make `top_p` together.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


class Prompt(Continuation, frozen=True, kw_only=True):
    """The beginning of a text."""

    prompt: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one side of a conversation said."""

    role: str
    content: str


class Chat(Continuation, frozen=True, kw_only=True):
    """A conversation, for the model to say what comes next."""

    messages: tuple[Message, ...]


class ScoredText(msgspec.Struct, frozen=True):
    """A whole text, for a language model to say how likely it is. No request makes one: checks do."""

    text: str


class Audio(msgspec.Struct, frozen=True):
    """One recording in one channel: float32 samples between -1 and 1."""

    samples: Array
    sampling_rate_hz: int


class Tensors(msgspec.Struct, frozen=True):
    """One whole set of the model's inputs by name, batch dimension and all."""

    inputs: dict[str, Array]


Item = Text | Question | Prompt | Chat | ScoredText | Image | Audio | Tensors


class LabelScore(TypedDict):
    """A label and how sure the model is of it."""

    label: str
    score: float


class Truncated(TypedDict):
    """A text or a sound was longer than its model takes: of its `tokens` or `seconds` the first ones were `read`."""

    tokens: NotRequired[int]
    seconds: NotRequired[float]
    read: float


class Cut(TypedDict):
    """What an answer says of its text or sound only when that was cut."""

    truncated: NotRequired[Truncated]


class ClassesAnswer(Cut):
    """Every label, the surest first."""

    labels: list[LabelScore]


class TokenLabel(TypedDict):
    """One token's surest label; `start` and `end` are character offsets into the text, end excluded."""

    token: str
    start: int
    end: int
    label: str
    score: float


class TokensAnswer(Cut):
    """The tokens in order, without the special ones."""

    tokens: list[TokenLabel]


class Box(TypedDict):
    """Edges in pixels of the picture as it was sent, upright. A model may put them outside of it."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Found(TypedDict):
    """One object, and how sure the model is of it."""

    label: str
    score: float
    box: Box


class BoxesAnswer(TypedDict):
    """The objects found, the surest first."""

    boxes: list[Found]


class SpanAnswer(TypedDict):
    """The answer as it stands in the context; `start` and `end` are character offsets into it, end excluded."""

    answer: str
    start: int
    end: int
    score: float


Finish = Literal["stop", "length"]


class TextAnswer(TypedDict):
    """What follows the prompt, in how many tokens, and why it ends: at a `stop` or at the `length` allowed."""

    text: str
    prompt_tokens: int
    tokens: int
    finish: Finish


class TokenDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one more token adds to an answer, perhaps nothing; `finish` is there in the last one only.

    `tokens` are those made so far, `prompt_tokens` those of the question.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finish: Finish | None = None


class LikelihoodAnswer(TypedDict):
    """The natural logarithm of a passage's likelihood, given its first token; and over how many tokens."""

    log_likelihood: float
    tokens: int


class EmbeddingAnswer(Cut):
    """One vector; with pooling `none` of a token model, one for each token. `tokens` are those read of a text."""

    embedding: list[Any]
    tokens: NotRequired[int]


class TensorsAnswer(TypedDict):
    """The outputs by name as nested lists."""

    outputs: dict[str, Any]


Answer: TypeAlias = (
    ClassesAnswer
    | TokensAnswer
    | BoxesAnswer
    | SpanAnswer
    | TextAnswer
    | LikelihoodAnswer
    | EmbeddingAnswer
    | TensorsAnswer
)

Cuttable = TypeVar("Cuttable", ClassesAnswer, TokensAnswer, EmbeddingAnswer)

#: One run of a model.
Infer: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """One text's tokens without padding; `spans` are character offsets into the text, end excluded.

    `unread` is how many more the text had than the model reads.
    Of a question with its context, `context` is the latter, and `words` has for each of its tokens the span of the word
    around it, None for the others.
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    context: str = ""
    words: tuple[tuple[int, int] | None, ...] = ()
    unread: int = 0


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture's own size in pixels, and the threshold that was asked for."""

    width: int
    height: int
    threshold: float | None = None


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """How long a sound is in seconds, and how much of it the model listens to."""

    seconds: float
    read: float


#: What postprocessing must know of an item.
ItemInfo: TypeAlias = Tokens | Picture | Sound | None


def truncated(about: ItemInfo) -> Truncated | None:
    """How much of an item the model didn't read; None when it read all."""
    match about:
        case Tokens(texts=texts, unread=unread) if unread:
            return {"tokens": len(texts) + unread, "read": len(texts)}
        case Sound(seconds=seconds, read=read) if read < seconds:
            return {"seconds": seconds, "read": read}
        case _:
            return None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs for one item, without the batch dimension, and what must be known of the item."""

    outputs: Mapping[str, Array]
    about: ItemInfo = None

    @property
    def tokens(self) -> Tokens | None:
        """The item's, where it was a text."""
        return self.about if isinstance(self.about, Tokens) else None


def rows(outputs: Mapping[str, Array], about: Sequence[ItemInfo], spec: Postprocess) -> list[Row]:
    """The outputs of one run, item by item.

    Args:
        outputs: of the run, one row for each item.
        about: one entry for each item of the run.
        spec: names the outputs that matter; without a name all do.

    Raises:
        UsageError: `input-invalid`, when an output doesn't have one row for each item.
        DeviceError: `runtime-failed`, when what is to be made an answer of is no number.
    """
    wanted = {name: outputs[name] for name in outputs_named(spec) or outputs}
    for name, array in wanted.items():
        if array.shape[:1] != (len(about),):
            raise UsageError(
                "input-invalid",
                f"output {name!r} has shape {list(array.shape)} for {len(about)} item(s)",
                "send one item at a time, with a batch dimension of one",
            )
        if array.dtype.kind == "f" and not isinstance(spec, TensorOutput) and np.isnan(array).any():
            raise DeviceError(
                "runtime-failed", f"the model's output {name!r} holds what is no number", "try other input"
            )
    return [
        Row(outputs={name: array[index] for name, array in wanted.items()}, about=item)
        for index, item in enumerate(about)
    ]


def joined(pieces: Iterable[TokenDelta]) -> TextAnswer:
    """The whole of an answer that was made piece by piece."""
    made = list(pieces)
    last = made[-1]
    return {
        "text": "".join(piece.text for piece in made),
        "prompt_tokens": last.prompt_tokens,
        "tokens": last.tokens,
        "finish": last.finish or "length",
    }


def tensors(row: Row, spec: TensorOutput) -> TensorsAnswer:  # noqa: ARG001 -- as all functions in the table
    """The outputs as they are."""
    return {"outputs": {name: array.tolist() for name, array in row.outputs.items()}}


def with_truncation(answer: Cuttable, row: Row) -> Cuttable:
    """The answer; where its text or sound was cut, with that."""
    if cut := truncated(row.about):
        answer["truncated"] = cut
    return answer

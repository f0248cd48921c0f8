"""How a language model continues a text: the options of a request with their bounds, and the tokens reported with it.

No tokenizer and no model here: requests, items and the generation loop all read these types.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypedDict

import msgspec

from edgeml_core.errors import UsageError

#: Tokens of one answer; bounds the time for which one request keeps a model busy.
NEW_TOKENS_MAX: Final = 1024
#: Temperature of sampling; all tokens are about equally likely at less than that.
TEMPERATURE_MAX: Final = 10.0
#: Stop sequences, and characters of one; OpenAI's API allows four.
STOPS_MAX: Final = 4
STOP_MAX_CHARS: Final = 256
#: Likeliest tokens reported with each token; OpenAI's bound.
TOP_LOGPROBS_MAX: Final = 20
#: Tokens with a bias, and the largest bias either way; OpenAI's bounds. 100 decides alone which token is drawn.
BIASED_TOKENS_MAX: Final = 300
BIAS_MAX: Final = 100.0
#: Frequency and presence penalties, either way, in units of logits; OpenAI's bound.
PENALTY_MAX: Final = 2.0
#: Factor by which repeated tokens become less likely; beyond these bounds float32 would overflow.
REPETITION_MIN: Final = 0.01
REPETITION_MAX: Final = 100.0
#: Bytes of one JSON schema or regular expression; to compile a schema of 1,150 properties takes 170 ms.
CONSTRAINT_MAX_BYTES: Final = 32 * 1024
#: Least logarithm of a probability in an answer, as OpenAI reports it; JSON has no infinity.
LOGPROB_MIN: Final = -9999.0

Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=STOP_MAX_CHARS)]
Stops = Annotated[tuple[Stop, ...], msgspec.Meta(max_length=STOPS_MAX)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=TEMPERATURE_MAX)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
NewTokens = Annotated[int, msgspec.Meta(ge=1, le=NEW_TOKENS_MAX)]
Penalty = Annotated[float, msgspec.Meta(ge=-PENALTY_MAX, le=PENALTY_MAX)]
Repetition = Annotated[float, msgspec.Meta(ge=REPETITION_MIN, le=REPETITION_MAX)]
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)]
_Token = Annotated[int, msgspec.Meta(ge=0)]
_Bias = Annotated[float, msgspec.Meta(ge=-BIAS_MAX, le=BIAS_MAX)]
LogitBias = Annotated[dict[_Token, _Bias], msgspec.Meta(max_length=BIASED_TOKENS_MAX)]


class FormatError(UsageError):
    """The form that a request asks of its answer is wrong or not supported."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__("input-invalid", message, hint)


class ToolError(FormatError):
    """The tools of a request are wrong or not supported."""


class Constraint(msgspec.Struct, frozen=True):
    """The form of an answer: a JSON schema, a regular expression that the whole answer matches, or edgeml's grammar."""

    kind: Literal["json_schema", "regex", "grammar"]
    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call in a conversation: its id, the function's name, and the arguments by name."""

    id: str
    name: str
    arguments: dict[str, Any]


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a call in an answer: `name` in its first one only, then the text of its arguments in JSON.

    `index` counts the calls of the answer.
    """

    index: int
    name: str | None = None
    arguments: str = ""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request.

    Attributes:
        given: as the client sends them, without `strict`: `{"type": "function", "function": {...}}`.
        choice: with `none` they stand in the prompt, and the answer is a text; with `required` it is a call.
        callable: names of the functions that may be called.
        several: whether an answer may have several calls.
        strict: whether a request is refused where its calls can't be constrained.
    """

    given: tuple[dict[str, Any], ...]
    callable: tuple[str, ...]
    choice: Literal["none", "auto", "required"] = "auto"
    several: bool = True
    strict: bool = False


class PlainFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""

    def constraint(self) -> None:
        """Return none."""
        return


class ObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""

    def constraint(self) -> Constraint:
        """Return the constraint."""
        return schema_constraint({"type": "object"})


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A JSON schema as OpenAI's clients send it; only `schema` changes the answer."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema allows."""

    json_schema: NamedSchema

    def constraint(self) -> Constraint:
        """Return the constraint. Raises: as `schema_constraint`."""
        return schema_constraint(self.json_schema.schema)


class RegexFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """A text that matches a regular expression as a whole."""

    value: str

    def constraint(self) -> Constraint:
        """Return the constraint.

        Raises:
            FormatError: `input-invalid`, when the expression is too long.
        """
        return _bounded("regex", self.value)


ResponseFormat = PlainFormat | ObjectFormat | SchemaFormat | RegexFormat


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """How a text is continued, until the model ends it or writes one of `stop`.

    At temperature 0 each token is the likeliest. Else it is drawn, from those tokens that `top_k`, `top_p` and `min_p`
    leave. `generate.sampling` states the order of the steps.

    Attributes:
        seed: of the draws; the same one repeats an answer.
        top_p: the likeliest tokens whose probabilities reach it together; 1 leaves all.
        top_k: the number of the likeliest tokens; 0 leaves all.
        min_p: the least probability, as a fraction of the likeliest token's.
        repetition_penalty: divides the logits of tokens that the prompt or the answer has; 1 changes none.
        frequency_penalty: subtracted from a token's logit once for each time that the answer has it.
        presence_penalty: subtracted once from the logit of each token that the answer has.
        logit_bias: added to logits, by token id.
        logprobs: the number of likeliest tokens reported with each token; None reports no probabilities.
        constraint: the form of the answer; None is any text.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    constraint: Constraint | None = None


class TokenLogprob(TypedDict):
    """One token: its text, the text's UTF-8 bytes, and the natural logarithm of its probability.

    `bytes` are those of a part of a character where a token is no whole one, and null where the tokenizer hides them.
    """

    token: str
    bytes: list[int] | None
    logprob: float


class WrittenToken(TokenLogprob):
    """One token of an answer, and the likeliest tokens in its place, the likeliest first."""

    top_logprobs: list[TokenLogprob]


def schema_constraint(schema: dict[str, Any]) -> Constraint:
    """Make the constraint of a JSON schema.

    Raises:
        FormatError: `input-invalid`, when the schema is too long or can't be written as JSON.
    """
    try:
        text = msgspec.json.encode(schema).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the schema is not JSON: {error}", "send a JSON schema") from error
    return _bounded("json_schema", text)


def _bounded(kind: Literal["json_schema", "regex"], text: str) -> Constraint:
    size = len(text.encode(errors="surrogatepass"))
    if size > CONSTRAINT_MAX_BYTES:
        raise FormatError(f"the form of the answer has {size} bytes", f"send {CONSTRAINT_MAX_BYTES} bytes at most")
    return Constraint(kind, text)

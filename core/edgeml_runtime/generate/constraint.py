"""The adapter to llguidance: the tokens that may follow in an answer whose form the request constrains.

The library is an optional extra of the device. It reads the model's tokenizer once, at the first constraint, which is
the agent's own when it loads the model. JSON is written without white space between its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgeml_runtime.generate import grammar_limits
from edgeml_runtime.generate.options import Constraint, FormatError
from edgeml_runtime.generate.token_bytes import TokenizerBytes, token_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher

#: Steps of the lexer when a constraint is compiled, and for each token: both take some ten milliseconds at most.
_COMPILE_FUEL: Final = 1_000_000
_TOKEN_FUEL: Final = 200_000
#: States of the lexer, of 1 to 2 KiB each, and symbols of the grammar; they bound memory and compile time.
_LEXER_STATES_MAX: Final = 20_000
_GRAMMAR_SYMBOLS_MAX: Final = 50_000
#: Characters of the library's reason in an error; a reason may repeat the whole schema.
_REASON_MAX_CHARS: Final = 200
_HINT: Final = "send a simpler form"


class Constraints:
    """Makes the guides of one model's answers.

    Args:
        tokenizer: the model's.
        stop_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._stops = [token for token in stop_ids if token < size]
        self._read: Any = None

    def guide(self, constraint: Constraint) -> Guide:
        """Compile a constraint for one answer.

        Raises:
            FormatError: `input-invalid`, when llguidance is not installed, or refuses the constraint or the tokenizer.
        """
        try:
            import llguidance  # noqa: PLC0415 -- an optional extra
        except ImportError as error:
            hint = "pip install 'edgeml-deploy[guidance]' on the device, or leave response_format out"
            raise FormatError("llguidance, which constrains answers, is not installed", hint) from error
        if self._read is None:
            self._read = self._read_tokenizer(llguidance)
        limits = llguidance.LLParserLimits(
            initial_lexer_fuel=_COMPILE_FUEL,
            step_lexer_fuel=_TOKEN_FUEL,
            max_lexer_states=_LEXER_STATES_MAX,
            max_grammar_size=_GRAMMAR_SYMBOLS_MAX,
            verbose_errors=False,
        )
        matcher = llguidance.LLMatcher(self._read, _grammar(llguidance, constraint), limits=limits, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Guide(matcher, self._stops)

    def _read_tokenizer(self, llguidance: Any) -> Any:  # noqa: ANN401 - the module, and its tokenizer
        stop = next(iter(self._stops), None)
        tokens = None if stop is None else token_bytes(self._tokenizer)
        try:
            # Without "slices" a mask takes 0.7 ms on average, not 0.3, and a large vocabulary 50 MiB, not 84.
            if stop is not None and tokens is not None:
                return llguidance.LLTokenizer(TokenizerBytes(self._tokenizer, tokens, stop), slices=[])
            return llguidance.LLTokenizer(self._tokenizer.to_str(), eos_token=stop, slices=[])
        except Exception as error:  # the library raises several kinds for a tokenizer that it can't read
            message = f"the answers of this model can't be constrained: {_first_line(error)}"
            raise FormatError(message, "leave response_format out") from error


class Guide:
    """The tokens that may follow, in one answer of a constrained form."""

    def __init__(self, matcher: LLMatcher, stops: Sequence[int]) -> None:
        self._matcher = matcher
        # llguidance 1.6, the last one for glibc 2.28 on arm64, knows one stop token: the first stands for all.
        self._stops = stops

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Return whether each of `size` tokens may follow, shape [size].

        Raises:
            FormatError: `input-invalid`, when that takes too long or no token may follow.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        known = np.unpackbits(bits, bitorder="little")[:size].view(np.bool_)
        if self._matcher.is_error() or not known.any():
            raise _refused(self._matcher.get_error() or "no token of the model may follow")
        if self._stops and known.size > self._stops[0]:
            known[[token for token in self._stops if token < known.size]] = known[self._stops[0]]
        # A model may have more outputs than its tokenizer has tokens: they mean nothing.
        return np.pad(known, (0, size - known.size))

    def advance(self, token: int) -> bool:
        """Take the token that follows, and return whether the answer is complete.

        Raises:
            FormatError: `input-invalid`, when the token was not allowed.
        """
        if not self._matcher.consume_token(self._stops[0] if token in self._stops else token):
            raise _refused(self._matcher.get_error())
        return bool(self._matcher.is_stopped())


def _grammar(llguidance: Any, constraint: Constraint) -> str:  # noqa: ANN401 - the module
    if constraint.kind == "regex":
        grammar_limits.check_regex(constraint.text)
        regex: str = llguidance.LLMatcher.grammar_from_regex(constraint.text)
        return regex
    if constraint.kind == "grammar":
        grammar: str = llguidance.LLMatcher.grammar_from_lark(constraint.text)
        return grammar
    overrides = {"whitespace_flexible": False, "lenient": False}
    try:
        schema: str = llguidance.LLMatcher.grammar_from_json_schema(constraint.text, overrides=overrides)
    except ValueError as error:
        raise _refused(str(error)) from error
    grammar_limits.check_schema(msgspec.json.decode(constraint.text))
    return schema


def _refused(reason: str) -> FormatError:
    return FormatError(f"the form of the answer can't be used: {_first_line(reason)}", _HINT)


def _first_line(reason: object) -> str:
    return str(reason).partition("\n")[0][:_REASON_MAX_CHARS]

"""Answers that may call tools: their form by the grammar of the tools, their tokens to text and calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
from tokenizers import Tokenizer

from edgeml_core.processing import ChatTemplate
from edgeml_core.tool_template import ToolTemplate
from edgeml_runtime.generate import tool_grammar, tools
from edgeml_runtime.generate.constraint import Constraints, Guide
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.generate.options import CallDelta, FormatError, ToolError, Tools
from edgeml_runtime.generate.tool_calls import CallReader
from edgeml_runtime.tasks import CallingMessage, Chat, ResultMessage


class Calling:
    """The calls of one model.

    Args:
        chat: the model's chat template, or none.
        tokenizer: the model's.
    """

    def __init__(self, chat: ChatTemplate | None, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found = None if chat is None or chat.tools is msgspec.UNSET else chat.tools
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token.content: number for number, token in added.items()}
        self._special = {token.content: number for number, token in added.items() if token.special}

    def render(self, chat: Chat) -> str | None:
        """Join a conversation with tools to a prompt; None for one without.

        Raises:
            ToolError: `input-invalid`, when the template writes no tools, or calls have no tools beside them.
            UsageError: `input-invalid`, when the template refuses the messages.
        """
        if chat.tools is None:
            if any(isinstance(it, CallingMessage | ResultMessage) for it in chat.messages):
                hint = "send the tools, with the choice none to call none of them"
                raise ToolError("the messages have calls of tools, but the request has no tools", hint)
            return None
        return tools.render(chat.messages, chat.tools.given, self._template())

    def guide(self, wanted: Tools, constraints: Constraints) -> Guide | None:
        """Compile the form of an answer; None where it may be free, and can't be constrained.

        Raises:
            ToolError: `input-invalid`, when it can't be constrained, but must be.
        """
        try:
            return constraints.guide(tool_grammar.constraint(wanted, self._template().call, self._added))
        except FormatError as error:
            if wanted.choice == "none" or (wanted.choice == "auto" and not wanted.strict):
                return None
            raise ToolError(error.message, error.hint) from error

    def answer(self, wanted: Tools, prompt: Sequence[int], stop: Sequence[str], *, at_once: bool) -> CallingAnswer:
        """Begin an answer.

        Args:
            wanted: the tools of the request.
            prompt: the prompt's token ids.
            stop: sequences; the answer ends before the first of them.
            at_once: whether its form is certain.
        """
        form = self._template().call
        written = "".join((form.opening, form.middle, form.between or "", form.ending))
        shown = {number for text, number in self._special.items() if text in written}
        hidden = frozenset(self._special.values()) - shown if shown else frozenset()
        decode = partial(self._tokenizer.decode, skip_special_tokens=not shown)
        reader = CallReader(form, wanted, at_once=at_once)
        return CallingAnswer(Detokenizer(decode, prompt, stop), reader, hidden)

    def _template(self) -> ToolTemplate:
        if self._found is None:
            message = "the model takes no tools: its chat template writes none that plain data can express"
            raise ToolError(message, "leave the tools out")
        return self._found


class CallingAnswer:
    """The text and the calls of one answer, token by token.

    Args:
        hidden: tokens that have no text.
    """

    def __init__(self, detokenizer: Detokenizer, reader: CallReader, hidden: frozenset[int]) -> None:
        self._detokenizer, self._reader, self._hidden = detokenizer, reader, hidden
        self._calls: tuple[CallDelta, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether the text has reached a stop sequence, or the answer has all its calls."""
        return self._detokenizer.stopped or self._reader.complete

    def add(self, token: int) -> str:
        """Add a token and return the characters that it makes certain."""
        return "" if token in self._hidden else self._read(self._detokenizer.add(token))

    def rest(self) -> str:
        """Return the characters that were held back; no token follows."""
        return self._read(self._detokenizer.rest()) + self._reader.rest()

    def take_calls(self) -> tuple[CallDelta, ...]:
        """Return the parts of calls that became certain since the last time."""
        calls, self._calls = self._calls, ()
        return calls

    def _read(self, text: str) -> str:
        text, calls = self._reader.add(text)
        self._calls += calls
        return text

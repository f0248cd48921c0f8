"""Tokens to text as they come: each piece is given out once nothing that follows can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: Tokens of the prompt that are spelled along with the first new ones: how a word begins depends on what is before it.
_CONTEXT_TOKENS: Final = 8
#: What stands for bytes that are no character; the last ones may be the beginning of one, which has four at most.
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"
_BROKEN_MAX: Final = 3


class Spelling:
    """The text of one answer.

    Args:
        decode: a tokenizer's.
        given: the prompt's tokens.
        stop: the text ends before the first of these.
    """

    def __init__(self, decode: Callable[[list[int]], str], given: Sequence[int], stop: Sequence[str] = ()) -> None:
        #: Whether one of `stop` has come.
        self.stopped = False
        self._decode = decode
        self._ids = list(given[-_CONTEXT_TOKENS:])
        self._before = len(decode(self._ids))
        self._stop = tuple(stop)
        self._text = ""
        self._shown = 0

    def add(self, token: int) -> str:
        """The characters that are certain with this token and weren't before it."""
        self._ids.append(token)
        # All of it again: a thousand tokens are spelled in less time than the model takes for one.
        self._text = self._decode(self._ids)[self._before :]
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
            return self.rest()
        return self._until(self._certain())

    def rest(self) -> str:
        """The characters that were held back, when nothing follows any more."""
        return self._until(len(self._text))

    def _until(self, end: int) -> str:
        piece = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _certain(self) -> int:
        """How many characters are certain: neither part of a broken one nor the beginning of a stop."""
        end = max(len(self._text.rstrip(_BROKEN)), len(self._text) - _BROKEN_MAX)
        return end - max((_begun(self._text[:end], stop) for stop in self._stop), default=0)


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return max((length for length in range(1, len(stop)) if text.endswith(stop[:length])), default=0)

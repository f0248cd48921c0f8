"""Tokens to text as they come: each piece is given out once nothing that follows can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: Tokens of the prompt that are spelled along with the new ones: how a word begins depends on what is before it.
_CONTEXT_TOKENS: Final = 8
#: What stands for bytes that are no character. At the end of a text they may be the beginning of one; and tokenizers
#: with a token for each byte then write this for all bytes before it, too.
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


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
        self._ids = _context(decode, given)
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
        end = len(self._text.rstrip(_BROKEN))
        return end - max((_begun(self._text[:end], stop) for stop in self._stop), default=0)


def _context(decode: Callable[[list[int]], str], given: Sequence[int]) -> list[int]:
    """The last tokens of the prompt, from where no character is cut in two."""
    count = _CONTEXT_TOKENS
    while count < len(given) and decode(list(given[-count:])).startswith(_BROKEN):
        count *= 2
    return list(given[-count:])


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return max((length for length in range(1, len(stop)) if text.endswith(stop[:length])), default=0)

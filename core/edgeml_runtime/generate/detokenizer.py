"""Tokens decoded to text one at a time: a character is returned once no later token can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: Tokens of the prompt that are decoded before the new ones; the beginning of a word depends on the text before it.
_CONTEXT_TOKENS: Final = 8
#: Tokenizers decode bytes that form no character to this one. At the end of a text they may be half a character.
#: Tokenizers with a token for each byte then decode all bytes before them to it, too.
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer.

    Args:
        decode: the tokenizer's method.
        prompt: the prompt's token ids.
        stop: sequences; the text ends before the first of them.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        #: Whether the text has reached one of `stop`.
        self.stopped = False
        self._decode = decode
        #: Tokens that are decoded together, and the characters of those before the answer.
        self._ids = _context(decode, prompt)
        context = decode(self._ids)
        self._before = len(context)
        #: Characters of those tokens when all were whole, and the number of tokens then.
        self._whole, self._whole_tokens = "", 0
        self._note(context)
        self._stop = tuple(stop)
        #: The answer, and its beginning, whose tokens aren't decoded any more.
        self._text = self._begun = ""
        self._returned = 0

    def add(self, token: int) -> str:
        """Add a token and return the characters that it makes certain."""
        self._ids.append(token)
        # All tokens are decoded again: a thousand of them take less time than one run of the model.
        decoded = self._decode(self._ids)
        if decoded.endswith(_BROKEN) and not decoded.startswith(self._whole):
            # A byte behind whole characters breaks them, so it is decoded without them.
            self._begun += self._whole[self._before :]
            del self._ids[: self._whole_tokens]
            self._before, self._whole = 0, ""
            decoded = self._decode(self._ids)
        self._note(decoded)
        self._text = self._begun + decoded[self._before :]
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
            return self.rest()
        return self._until(self._certain())

    def rest(self) -> str:
        """Return the characters that were held back; no token follows."""
        return self._until(len(self._text))

    def _note(self, decoded: str) -> None:
        if not decoded.endswith(_BROKEN):
            self._whole, self._whole_tokens = decoded, len(self._ids)

    def _until(self, end: int) -> str:
        piece = self._text[self._returned : end]
        self._returned = max(self._returned, end)
        return piece

    def _certain(self) -> int:
        """Count the characters that are certain: neither half a character nor the beginning of a stop sequence."""
        end = len(self._text.rstrip(_BROKEN))
        return end - max((_overlap(self._text[:end], stop) for stop in self._stop), default=0)


def _context(decode: Callable[[list[int]], str], prompt: Sequence[int]) -> list[int]:
    """Return the last tokens of the prompt, from the beginning of a character on."""
    count = _CONTEXT_TOKENS
    while count < len(prompt) and decode(list(prompt[-count:])).startswith(_BROKEN):
        count *= 2
    return list(prompt[-count:])


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of `text` that may be the beginning of `stop`."""
    return max((length for length in range(1, len(stop)) if text.endswith(stop[:length])), default=0)

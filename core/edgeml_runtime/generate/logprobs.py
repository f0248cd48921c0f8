"""Log probabilities of tokens, and the texts and bytes that name them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from edgeml_runtime.generate.options import LOGPROB_MIN, TokenLogprob, WrittenToken
from edgeml_runtime.tensors import Array

#: Tokenizers decode bytes that form no character to this one.
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"
#: A token for one byte, in a tokenizer with tokens for all bytes that its texts don't cover.
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer(Protocol):
    """The methods of `tokenizers.Tokenizer` that name a token."""

    decode: Callable[[list[int]], str]
    id_to_token: Callable[[int], str | None]


class TokenTexts:
    """The text and bytes of each token of a tokenizer, as they stand within a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def named(self, token: int, logprob: float) -> TokenLogprob:
        """Describe a token; a special one by its name in the tokenizer."""
        alone = self._tokenizer.decode([token])
        name = self._tokenizer.id_to_token(token) or ""
        if _BROKEN in alone and (found := _bytes(name)) is not None:
            text, data = found.decode(errors="replace"), found
        else:
            # The second of two has the space before its word, which decoders drop at the beginning of a text.
            text = self._tokenizer.decode([token, token])[len(alone) :] or name
            data = b"" if _BROKEN in text else text.encode()
        return {"token": text, "bytes": list(data) if data else None, "logprob": max(logprob, LOGPROB_MIN)}


def written_token(logits: Array, token: int, count: int, texts: TokenTexts) -> WrittenToken:
    """Describe one token of an answer.

    Args:
        logits: the model's own, float [vocabulary].
        token: the token written.
        count: how many of the likeliest tokens to add; equally likely ones come in the order of their ids.
        texts: names the tokens.
    """
    top = logits.max()
    # Exponentials in float32 take a quarter of the time; their sum is exact to seven digits.
    total = float(np.exp((logits - top).astype(np.float32)).sum(dtype=np.float64))

    def named(token: int) -> TokenLogprob:
        return texts.named(token, float(logits[token]) - float(top) - math.log(total))

    return {**named(token), "top_logprobs": [named(it) for it in _largest(logits, count)]}


def _largest(values: Array, count: int) -> list[int]:
    if not count:
        return []
    place = max(0, values.size - count)
    ids = np.flatnonzero(values >= np.partition(values, place)[place])
    found: list[int] = ids[np.argsort(-values[ids], kind="stable")][:count].tolist()
    return found


def _bytes(name: str) -> bytes | None:
    """Return the bytes of a token that are no whole characters; None where its name doesn't tell them."""
    if match := _BYTE.fullmatch(name):
        return bytes.fromhex(match[1])
    if all(character in _BYTE_OF for character in name):
        return bytes(_BYTE_OF[character] for character in name)
    return None


def _byte_characters() -> dict[str, int]:
    """Return the byte of each character of byte-level tokenizers: printable ones stand for themselves.

    Source: GPT-2's `encoder.py`, `bytes_to_unicode`; the other bytes are the characters from 256 on, in order.
    """
    themselves = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in themselves]
    named = {chr(byte): byte for byte in themselves}
    return named | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTE_OF: Final = _byte_characters()

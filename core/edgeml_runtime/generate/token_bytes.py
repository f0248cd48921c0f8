"""The bytes of all tokens of a byte-level tokenizer, by their names; most large vocabularies are byte-level.

llguidance needs them. It finds them by itself in a tokenizer of any kind, but holds the lock of Python's interpreter
for four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer, decoders, normalizers

#: Part of the description of a tokenizer that writes a space before a text, so that a text has other tokens alone.
_SPACE_FIRST: Final = b'"add_prefix_space":true'
#: Bytes that are named by their own character of Latin-1. The others take characters behind it, in their order.
#: Source: GPT-2's tokenizer, the first one that is byte-level.
_OWN: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS: Final = [byte for byte in range(0x100) if byte not in _OWN]
_FIRST_BEHIND: Final = 0x100
#: Stands for what names no byte, and isn't in Latin-1.
_NOTHING: Final = 0xFFFD
#: From a name's characters to those of Latin-1, each of which has the number of its byte.
_BYTES: Final = dict.fromkeys(_OTHERS, _NOTHING) | {_FIRST_BEHIND + number: byte for number, byte in enumerate(_OTHERS)}


class TokenizerBytes:
    """A tokenizer in the form that llguidance takes.

    Args:
        tokenizer: the model's.
        tokens: by id, the bytes of each.
        stop: the token that ends an answer.
    """

    is_tokenizer_wrapper: Final = True
    bos_token_id: Final = None

    def __init__(self, tokenizer: Tokenizer, tokens: Sequence[bytes], stop: int) -> None:
        self._tokenizer = tokenizer
        self.tokens, self.eos_token_id = tokens, stop
        added = tokenizer.get_added_tokens_decoder().items()
        # Where llguidance reads a tokenizer itself, added tokens in angle brackets are special, too.
        self.special_token_ids = [it for it, token in added if token.special or _is_bracketed(token.content)]

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _is_bracketed(name: str) -> bool:
    return name.startswith("<") and name.endswith(">")


def token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """Return the bytes of each token by its id; None for a tokenizer that isn't byte-level."""
    before = tokenizer.pre_tokenizer
    if not isinstance(tokenizer.decoder, decoders.ByteLevel) or before is None or _SPACE_FIRST in before.__getstate__():
        return None
    if not isinstance(tokenizer.normalizer, normalizers.NFC | None):
        return None
    added = tokenizer.get_added_tokens_decoder()
    named = tokenizer.get_vocab(with_added_tokens=True)
    found = [b""] * (max(named.values(), default=-1) + 1)
    try:
        for name, number in named.items():
            found[number] = name.translate(_BYTES).encode("latin-1") if number not in added else name.encode()
    except UnicodeEncodeError:
        return None
    return found

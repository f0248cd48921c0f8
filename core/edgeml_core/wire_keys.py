"""Wire keys: how wants and topics name what a device asks for.

    ID          a whole chunk
    ID/BASE     the difference that makes it of the chunk BASE, which the device has

An id is the first half of the chunk's SHA-256, since each update says hundreds of them several times. That is enough to
name a chunk; what arrives is held to the whole digest. To whoever only passes keys on they are opaque text.
"""

from __future__ import annotations

import re
from typing import Final

from edgeml_core.errors import RejectedError

#: 128 bits.
_ID_CHARS: Final = 32
_SEPARATOR: Final = "/"
_KEY: Final = re.compile(rf"[0-9a-f]{{{_ID_CHARS}}}(/[0-9a-f]{{{_ID_CHARS}}})?")


def chunk_id(digest: str) -> str:
    """The id of the chunk with the SHA-256 `digest`."""
    return digest[:_ID_CHARS]


def join(chunk: str, base: str = "") -> str:
    """The key of a chunk by its id, or of its difference to the chunk with the id `base`."""
    return f"{chunk}{_SEPARATOR}{base}" if base else chunk


def has_base(key: str) -> bool:
    """Whether a key made by `join` asks for a difference."""
    return _SEPARATOR in key


def ids(key: str) -> tuple[str, ...]:
    """The ids in a key that came over the wire: the chunk's, and its base's if it has one.

    Raises:
        RejectedError: `document-format`, for anything else.
    """
    if not _KEY.fullmatch(key):
        raise RejectedError("document-format", "what is wanted is no wire key")
    return tuple(key.split(_SEPARATOR))

"""Wire keys: the names of chunks in requests and topics.

    ID          a whole chunk
    ID/BASE     the delta that makes it from the chunk BASE, which the device has

An id is the first half of the chunk's SHA-256, since each update names hundreds of chunks several times. Half suffices
to name a chunk; received bytes are verified against the whole digest. Relays and brokers treat keys as opaque text.
"""

from __future__ import annotations

import re
from typing import Final

from edgeml_core.errors import RejectedError

#: Characters of an id: 128 bits.
_ID_CHARS: Final = 32
_SEPARATOR: Final = "/"
_KEY: Final = re.compile(rf"[0-9a-f]{{{_ID_CHARS}}}(/[0-9a-f]{{{_ID_CHARS}}})?")


def chunk_id(digest: str) -> str:
    """Return the id of the chunk with the SHA-256 `digest`."""
    return digest[:_ID_CHARS]


def join(chunk: str, base: str = "") -> str:
    """Return the key of a chunk by its id, or of its delta to the chunk with the id `base`."""
    return f"{chunk}{_SEPARATOR}{base}" if base else chunk


def has_base(key: str) -> bool:
    """Return whether a key made by `join` requests a delta."""
    return _SEPARATOR in key


def ids(key: str) -> tuple[str, ...]:
    """Return the ids in a received key: the chunk's, and its base's if it has one.

    Raises:
        RejectedError: `document-format`, for any other text.
    """
    if not _KEY.fullmatch(key):
        raise RejectedError("document-format", "the requested text is no wire key")
    return tuple(key.split(_SEPARATOR))

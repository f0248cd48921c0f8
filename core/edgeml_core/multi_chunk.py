"""Several small payloads in one publication, on the topic of the first: a topic for each would cost more than they do.

Each entry is the first bytes of its wire key's SHA-256, the payload's length, the payload. An entry is no more trusted
than a publication of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from edgeml_core.chunks import WIRE_CHUNK_MAX_BYTES

_CODEC: Final = b"\x10"
_NAME_BYTES: Final = 8
_LENGTH_BYTES: Final = 2
_HEAD_BYTES: Final = _NAME_BYTES + _LENGTH_BYTES
#: Bytes of a payload in a joint publication; the topic of a longer one costs less than a tenth of it.
SMALL_MAX_BYTES: Final = 1024
#: Entries of a joint publication, so that it is never longer than a wire chunk.
ENTRIES_MAX: Final = (WIRE_CHUNK_MAX_BYTES - 1) // (_HEAD_BYTES + SMALL_MAX_BYTES)


def name(key: str) -> bytes:
    """Return the name of the entry for a wire key."""
    return hashlib.sha256(key.encode()).digest()[:_NAME_BYTES]


def join(answers: Sequence[tuple[str, bytes]]) -> bytes:
    """Join at most `ENTRIES_MAX` keys with their payloads of at most `SMALL_MAX_BYTES` each."""
    return _CODEC + b"".join(name(key) + len(payload).to_bytes(_LENGTH_BYTES) + payload for key, payload in answers)


def split(payload: bytes) -> dict[bytes, bytes]:
    """Split a joint payload into payloads by their keys' names; any other payload gives none."""
    entries: dict[bytes, bytes] = {}
    if payload[:1] != _CODEC:
        return entries
    at = 1
    while at < len(payload):
        start = at + _HEAD_BYTES
        end = start + int.from_bytes(payload[at + _NAME_BYTES : start])
        if end > len(payload):
            return {}
        entries[payload[at : at + _NAME_BYTES]] = payload[start:end]
        at = end
    return entries

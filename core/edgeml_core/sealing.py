"""Chunks sealed for a group of devices: who else passes them on or listens learns neither names nor contents.

A group has one secret key. With it, a chunk's id is no part of its digest, which manifests list for all to read, but
an HMAC of it; and a payload is encrypted and authenticated together with the id that it is for (AES-256-GCM), after
padding that blurs its length. How many chunks there are, and when they are sent, stays visible.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError

KEY_BYTES: Final = 32
#: Payloads are padded to a multiple of it.
PAD_BYTES: Final = 256

_CODEC: Final = b"\x20"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CHECK_BYTES: Final = 4
#: Ends the content; zeros follow.
_END: Final = b"\x80"
_MAX_BYTES: Final = 1 + _NONCE_BYTES + chunks.WIRE_CHUNK_MAX_BYTES + PAD_BYTES + _TAG_BYTES


class Seal:
    """The key of one group, at work."""

    def __init__(self, key: bytes) -> None:
        # One key for each purpose, so that neither use says anything about the other.
        self._names = hmac.digest(key, b"edgeml chunk ids", "sha256")
        self._cipher = AESGCM(hmac.digest(key, b"edgeml chunks", "sha256"))

    def chunk_id(self, digest: str) -> str:
        """What a chunk is called in wire keys among those who have the key."""
        return wire_keys.chunk_id(hmac.new(self._names, digest.encode(), hashlib.sha256).hexdigest())

    def close(self, payload: bytes, key: str) -> bytes:
        """A wire payload as it is published under a wire key."""
        padded = payload + _END
        padded += b"\0" * (-len(padded) % PAD_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _CODEC + nonce + self._cipher.encrypt(nonce, padded, _bound_to(key))

    def open(self, sealed: bytes, key: str) -> bytes:
        """The wire payload in a publication for a wire key.

        Raises:
            RejectedError: `digest-mismatch`, when it wasn't sealed by this group for this key.
        """
        start = len(_CODEC) + _NONCE_BYTES
        if not is_sealed(sealed) or len(sealed) > _MAX_BYTES:
            raise RejectedError("digest-mismatch", f"a publication for {key[:12]} isn't sealed")
        try:
            padded = self._cipher.decrypt(sealed[len(_CODEC) : start], sealed[start:], _bound_to(key))
        except (InvalidTag, ValueError) as error:
            message = f"a publication for {key[:12]} wasn't sealed with this group's key"
            raise RejectedError("digest-mismatch", message) from error
        return padded.rstrip(b"\0").removesuffix(_END)


def _bound_to(key: str) -> bytes:
    # Whole or difference may answer either wish; which chunk it makes, its digest tells.
    return wire_keys.ids(key)[0].encode()


def to_disk(sealed: bytes) -> bytes:
    """What a publication is kept as where nobody has the key: its damage can be told from a forgery."""
    return sealed + zlib.crc32(sealed).to_bytes(_CHECK_BYTES)


def from_disk(kept: bytes) -> bytes:
    """The publication that `to_disk` kept.

    Raises:
        RejectedError: `digest-mismatch`, when it is damaged.
    """
    sealed = kept[:-_CHECK_BYTES]
    if to_disk(sealed) != kept:
        raise RejectedError("digest-mismatch", "a sealed chunk is damaged")
    return sealed


def is_sealed(payload: bytes) -> bool:
    """Whether a payload says that it is sealed."""
    return payload.startswith(_CODEC)

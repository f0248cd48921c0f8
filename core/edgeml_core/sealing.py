"""Sealing: encryption of chunks for a group of devices. Relays and listeners learn neither names nor contents.

A group has one secret key. With it, a chunk's id is an HMAC of its digest, since manifests list digests for all to
read. A payload is padded, which blurs its length, then encrypted and authenticated together with its id (AES-256-GCM).
The number of chunks, and the time of each, stay visible.
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

#: Bytes of a group's key.
KEY_BYTES: Final = 32
#: Bytes to whose multiple payloads are padded.
PAD_BYTES: Final = 256

_CODEC: Final = b"\x20"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 4
#: The byte that ends the content; zeros follow.
_END: Final = b"\x80"
_MAX_BYTES: Final = 1 + _NONCE_BYTES + chunks.WIRE_CHUNK_MAX_BYTES + PAD_BYTES + _TAG_BYTES


class Seal:
    """The cipher of one group."""

    def __init__(self, key: bytes) -> None:
        # One key for each purpose, so that neither use reveals anything about the other.
        self._names = hmac.digest(key, b"edgeml chunk ids", "sha256")
        self._cipher = AESGCM(hmac.digest(key, b"edgeml chunks", "sha256"))

    def chunk_id(self, digest: str) -> str:
        """Return a chunk's id in wire keys of this group."""
        return wire_keys.chunk_id(hmac.new(self._names, digest.encode(), hashlib.sha256).hexdigest())

    def close(self, payload: bytes, key: str) -> bytes:
        """Encrypt a wire payload for publication under a wire key."""
        padded = payload + _END
        padded += b"\0" * (-len(padded) % PAD_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _CODEC + nonce + self._cipher.encrypt(nonce, padded, _bound_to(key))

    def open(self, sealed: bytes, key: str) -> bytes:
        """Decrypt the publication for a wire key.

        Raises:
            RejectedError: `digest-mismatch`, when this group didn't seal it for this key.
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
    # Bound to the chunk's id only: a whole chunk or a delta may answer a request, and the digest decides.
    return wire_keys.ids(key)[0].encode()


def to_disk(sealed: bytes) -> bytes:
    """Return a publication in the form that holders without the key store: its checksum tells damage from a forgery."""
    return sealed + zlib.crc32(sealed).to_bytes(_CHECKSUM_BYTES)


def from_disk(stored: bytes) -> bytes:
    """Return the publication that `to_disk` stored.

    Raises:
        RejectedError: `digest-mismatch`, when it is damaged.
    """
    sealed = stored[:-_CHECKSUM_BYTES]
    if to_disk(sealed) != stored:
        raise RejectedError("digest-mismatch", "a sealed chunk is damaged")
    return sealed


def is_sealed(payload: bytes) -> bool:
    """Return whether a payload is marked as sealed."""
    return payload.startswith(_CODEC)

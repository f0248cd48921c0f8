"""Chunks: 64 KiB pieces of a file, addressed by SHA-256, and their form on the wire.

A wire chunk is one codec byte and a body: the chunk, or its difference to another that the receiver has. The digest of
the *decoded* bytes decides, always; nothing about the encoding is trusted. What is wanted from whom, and when, is the
business of the fetcher and the origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import zstandard

from edgeml_core import delta, wire_keys
from edgeml_core.errors import RejectedError

CHUNK_BYTES: Final = 64 * 1024
#: A wire chunk is never longer: where compression doesn't pay, the raw bytes go out.
WIRE_CHUNK_MAX_BYTES: Final = CHUNK_BYTES + 1
#: Level 9 against 19 on int8 weights: 1 % more bytes for a tenth of the time.
ZSTD_LEVEL: Final = 9

_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
#: Measured on a retrained 23 MB model: 7 % smaller than level 9, as small as 19 in half the time.
_STREAM_LEVEL: Final = 16
#: One byte for each changed one, and those that say "more".
_STREAM_MAX_BYTES: Final = CHUNK_BYTES + CHUNK_BYTES // 255 + 1
#: The length of the first stream, then both (see `difference`), each compressed.
_DIFFERENCE: Final = b"\x02"
_LENGTH_BYTES: Final = 2


def sha256(data: bytes) -> str:
    """The digest that addresses `data`, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def count(size_bytes: int) -> int:
    """How many chunks a file of `size_bytes` has."""
    return -(-size_bytes // CHUNK_BYTES)


def length(size_bytes: int, index: int) -> int:
    """The length in bytes of chunk `index` of a file of `size_bytes`: all are full but the last."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


def split(data: bytes) -> Iterator[bytes]:
    """The chunks of `data` in order."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def to_wire(chunk: bytes) -> bytes:
    """One chunk as it is published: zstd where that is shorter, raw otherwise."""
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(chunk)
    return _ZSTD + packed if len(packed) < len(chunk) else _RAW + chunk


def to_wire_from(base: bytes, chunk: bytes) -> bytes:
    """One chunk as it is published for those who have `base`: the difference where that is shorter, whole otherwise."""
    whole = to_wire(chunk)
    if len(base) != len(chunk):
        return whole
    positions, amounts = map(_packed, delta.streams(base, chunk))
    payload = _DIFFERENCE + len(positions).to_bytes(_LENGTH_BYTES) + positions + amounts
    return min(payload, whole, key=len)


def from_wire(payload: bytes, digest: str, base: bytes = b"") -> bytes:
    """The chunk in a publication.

    Args:
        payload: what arrived; at most `WIRE_CHUNK_MAX_BYTES`.
        digest: the SHA-256 that a signed manifest lists for it.
        base: the chunk that a difference was asked to; it may be damaged.

    Raises:
        RejectedError: `digest-mismatch`, for anything that doesn't decode to bytes with that digest.
    """
    chunk = _decode(payload, base)
    if chunk is None or sha256(chunk) != digest:
        raise RejectedError("digest-mismatch", f"a publication for chunk {digest[:12]} has other content")
    return chunk


def from_store(payload: bytes, chunk_id: str) -> bytes:
    """The chunk in a payload that was kept under the chunk's id, where the digest isn't known.

    Raises:
        RejectedError: `digest-mismatch`.
    """
    chunk = _decode(payload, b"")
    if chunk is None or wire_keys.chunk_id(sha256(chunk)) != chunk_id:
        raise RejectedError("digest-mismatch", f"what is kept as chunk {chunk_id[:12]} has other content")
    return chunk


def _packed(stream: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_STREAM_LEVEL).compress(stream)


def _applied(base: bytes, body: bytes) -> bytes | None:
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES])
    positions, amounts = (_unpacked(it, _STREAM_MAX_BYTES) for it in (body[_LENGTH_BYTES:end], body[end:]))
    return delta.applied(base, positions, amounts)


def _unpacked(frame: bytes, max_bytes: int) -> bytes:
    # The frame's own claim of its size is not trusted with an allocation.
    if zstandard.frame_content_size(frame) > max_bytes:
        raise zstandard.ZstdError("the content is too long")
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=max_bytes, allow_extra_data=False)


def _decode(payload: bytes, base: bytes) -> bytes | None:
    if len(payload) > WIRE_CHUNK_MAX_BYTES:
        return None
    codec, body = payload[:1], payload[1:]
    try:
        if codec == _RAW:
            return body
        if codec == _ZSTD:
            return _unpacked(body, CHUNK_BYTES)
        if codec == _DIFFERENCE:
            return _applied(base, body)
    except zstandard.ZstdError:
        return None
    return None

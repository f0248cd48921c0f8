"""Chunks: 64 KiB parts of a file, addressed by SHA-256, and their form on the wire.

A wire chunk is one codec byte and a body: the chunk, or its delta to another chunk that the receiver has. The digest of
the decoded bytes always decides; nothing about the encoding is trusted. Requests and their order are left to the
fetcher and the origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import zstandard

from edgeml_core import delta, wire_keys
from edgeml_core.errors import RejectedError

#: Bytes of a chunk: a lost one costs little to repeat, and its digest is 0.05 % of it.
CHUNK_BYTES: Final = 64 * 1024
#: Bytes of a wire chunk: where compression doesn't pay, the raw bytes are sent.
WIRE_CHUNK_MAX_BYTES: Final = CHUNK_BYTES + 1
#: Compression level: 9 against 19 on int8 weights costs 1 % more bytes and takes a tenth of the time.
ZSTD_LEVEL: Final = 9

_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
#: Compression level of deltas. On a retrained 23 MB model it is 7 % smaller than level 9, and as small as 19 in half
#: the time.
_STREAM_LEVEL: Final = 16
#: Bytes of an unpacked stream: one for each changed byte, and those that mean "more".
_STREAM_MAX_BYTES: Final = CHUNK_BYTES + CHUNK_BYTES // 255 + 1
#: Codec of a delta: the length of the first stream, then both (see `delta`), each compressed.
_DELTA: Final = b"\x02"
_LENGTH_BYTES: Final = 2


def sha256(data: bytes) -> str:
    """Return the digest that addresses `data`, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def count(size_bytes: int) -> int:
    """Return the number of chunks of a file of `size_bytes`."""
    return -(-size_bytes // CHUNK_BYTES)


def length(size_bytes: int, index: int) -> int:
    """Return the length in bytes of chunk `index` of a file of `size_bytes`: all but the last are full."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


def split(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of `data` in order."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def to_wire(chunk: bytes) -> bytes:
    """Encode a chunk for publication: zstd where that is shorter, raw otherwise."""
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(chunk)
    return _ZSTD + packed if len(packed) < len(chunk) else _RAW + chunk


def to_wire_from(base: bytes, chunk: bytes) -> bytes:
    """Encode a chunk for devices that have `base`: as a delta where that is shorter, whole otherwise."""
    whole = to_wire(chunk)
    if len(base) != len(chunk):
        return whole
    positions, amounts = map(_pack, delta.diff(base, chunk))
    payload = _DELTA + len(positions).to_bytes(_LENGTH_BYTES) + positions + amounts
    return min(payload, whole, key=len)


def from_wire(payload: bytes, digest: str, base: bytes = b"") -> bytes:
    """Decode the chunk in a publication.

    Args:
        payload: the publication's payload; at most `WIRE_CHUNK_MAX_BYTES`.
        digest: the SHA-256 that a signed manifest lists for the chunk.
        base: the chunk that the delta was requested to; it may be damaged.

    Raises:
        RejectedError: `digest-mismatch`, for a payload that doesn't decode to bytes with that digest.
    """
    chunk = _decode(payload, base)
    if chunk is None or sha256(chunk) != digest:
        raise RejectedError("digest-mismatch", f"a publication for chunk {digest[:12]} has other content")
    return chunk


def from_store(payload: bytes, chunk_id: str) -> bytes:
    """Decode a payload that was stored under its chunk's id, where the digest isn't known.

    Raises:
        RejectedError: `digest-mismatch`.
    """
    chunk = _decode(payload, b"")
    if chunk is None or wire_keys.chunk_id(sha256(chunk)) != chunk_id:
        raise RejectedError("digest-mismatch", f"the stored chunk {chunk_id[:12]} has other content")
    return chunk


def _pack(stream: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_STREAM_LEVEL).compress(stream)


def _apply(base: bytes, body: bytes) -> bytes | None:
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES])
    positions, amounts = (_unpack(it, _STREAM_MAX_BYTES) for it in (body[_LENGTH_BYTES:end], body[end:]))
    return delta.apply(base, positions, amounts)


def _unpack(frame: bytes, max_bytes: int) -> bytes:
    # The size in the frame's header is not trusted with an allocation.
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
            return _unpack(body, CHUNK_BYTES)
        if codec == _DELTA:
            return _apply(base, body)
    except zstandard.ZstdError:
        return None
    return None

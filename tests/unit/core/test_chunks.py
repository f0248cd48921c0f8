"""Chunks and their wire form."""

import os

import pytest
import zstandard

from edgeml_core import chunks
from edgeml_core.errors import RejectedError

NOISE = bytes((i * i * 7919 + i // 3) % 251 for i in range(chunks.CHUNK_BYTES))


@pytest.mark.parametrize("size_bytes", [0, 1, chunks.CHUNK_BYTES, chunks.CHUNK_BYTES + 1, 5 * chunks.CHUNK_BYTES])
def test_counts_and_lengths_agree_with_the_split(size_bytes):
    """The receiver computes from the size what the sender cut."""
    pieces = list(chunks.split(b"x" * size_bytes))
    assert len(pieces) == chunks.count(size_bytes)
    assert [len(piece) for piece in pieces] == [chunks.length(size_bytes, i) for i in range(len(pieces))]


def test_what_compresses_is_sent_compressed():
    """Zeros cost a few bytes on the wire."""
    chunk = bytes(chunks.CHUNK_BYTES)
    assert len(chunks.to_wire(chunk)) < 100
    assert chunks.from_wire(chunks.to_wire(chunk), chunks.sha256(chunk)) == chunk


def test_what_does_not_compress_is_sent_raw():
    """The wire form is never longer than the bound."""
    chunk = os.urandom(chunks.CHUNK_BYTES)
    assert len(chunks.to_wire(chunk)) == chunks.WIRE_CHUNK_MAX_BYTES
    assert chunks.from_wire(chunks.to_wire(chunk), chunks.sha256(chunk)) == chunk


BOMB = b"\x01" + zstandard.ZstdCompressor().compress(bytes(100 * 1024 * 1024))
UNSIZED_BOMB = b"\x01" + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1024 * 1024))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00", b"\x01", b"\x02" + NOISE, b"\x00" + NOISE[:-1], b"\x01" + NOISE, b"\x00" + NOISE + b"x", BOMB,
     UNSIZED_BOMB, chunks.to_wire(bytes(9)) + b"x"],
)  # fmt: skip
def test_whatever_does_not_decode_to_the_digest_is_refused(payload):
    """Wrong content, wrong codec, bombs and trailing bytes are one error."""
    with pytest.raises(RejectedError) as caught:
        chunks.from_wire(payload, chunks.sha256(NOISE))
    assert caught.value.code == "digest-mismatch"

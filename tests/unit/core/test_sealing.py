"""Chunks sealed for a group."""

import os

import pytest

from edgeml_core import chunks, sealing, wire_keys
from edgeml_core.errors import RejectedError
from edgeml_core.sealing import Seal

OURS, THEIRS = Seal(b"a" * sealing.KEY_BYTES), Seal(b"b" * sealing.KEY_BYTES)
DIGEST = chunks.sha256(b"content")
KEY = wire_keys.join(OURS.chunk_id(DIGEST), OURS.chunk_id(chunks.sha256(b"base")))


def flipped(data, at):
    """Data with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x80", b"\0" * 300, b"x" * sealing.PAD_BYTES, os.urandom(chunks.WIRE_CHUNK_MAX_BYTES)],
    ids=["empty", "padding's mark", "zeros", "one pad", "longest"],
)
def test_what_is_sealed_is_opened_by_the_group(payload):
    """Whatever its end is, and up to the longest."""
    assert OURS.open(OURS.close(payload, KEY), KEY) == payload


def test_ids_say_nothing_to_others():
    """They are wire keys, but no group's are another's or the manifest's."""
    ids = {OURS.chunk_id(DIGEST), THEIRS.chunk_id(DIGEST), wire_keys.chunk_id(DIGEST)}
    assert len(ids) == 3
    assert all(wire_keys.ids(it) == (it,) for it in ids)


def test_lengths_are_blurred_and_the_same_is_never_the_same():
    """Two answers of about one length can't be distinguished by it, nor is a repeated chunk recognizable."""
    sealed = [OURS.close(payload, KEY) for payload in (b"a" * 300, b"a" * 300, b"b" * 500)]
    assert len(set(sealed)) == 3
    assert len(set(map(len, sealed))) == 1


def test_what_is_kept_without_the_key_shows_its_damage():
    """On a stick, say."""
    kept = sealing.to_disk(OURS.close(b"payload", KEY))
    assert OURS.open(sealing.from_disk(kept), KEY) == b"payload"
    for damaged in (kept[:-1], flipped(kept, -20), b""):
        with pytest.raises(RejectedError):
            sealing.from_disk(damaged)


@pytest.mark.parametrize(
    "forged",
    [
        THEIRS.close(b"payload", KEY),
        OURS.close(b"payload", OURS.chunk_id(chunks.sha256(b"other"))),
        OURS.close(b"payload", KEY)[:-1],
        flipped(OURS.close(b"payload", KEY), -1),
        OURS.close(b"payload", KEY)[:5],
        chunks.to_wire(b"payload"),
        b"",
        OURS.close(os.urandom(2 * chunks.CHUNK_BYTES), KEY),
    ],
    ids=["another group", "another key", "cut", "flipped", "short", "plain", "empty", "too long"],
)
def test_anything_else_is_refused(forged):
    """Another group's, one for another chunk, cut, changed, not sealed at all, or too long."""
    with pytest.raises(RejectedError) as caught:
        OURS.open(forged, KEY)
    assert caught.value.code == "digest-mismatch"

"""Differences between chunks, against the plain loop that they stand for."""

import numpy as np
import pytest

from edgeml_core import chunks, delta
from edgeml_core.errors import RejectedError

BASE = np.random.default_rng(0).bytes(chunks.CHUNK_BYTES)


def changed(share: float, seed: int = 1) -> bytes:
    """The base with a share of its bytes moved by one or two, as retraining moves int8 weights."""
    draw = np.random.default_rng(seed)
    weights = np.frombuffer(BASE, np.int8).copy()
    moved = draw.random(len(weights)) < share
    weights[moved] += draw.choice(np.array([-2, -1, 1, 2], np.int8), moved.sum())
    return weights.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.05, 0.2, 1.0])
def test_streams_lead_back_to_the_chunk(share):
    """However few or many bytes changed, gaps longer than a byte included."""
    chunk = changed(share)
    positions, amounts = delta.diff(BASE, chunk)
    assert len(amounts) == sum(a != b for a, b in zip(BASE, chunk, strict=True))
    assert delta.apply(BASE, positions, amounts) == chunk


def test_every_amount_wraps_round():
    """New minus old is taken modulo 256, for all pairs of bytes."""
    base = bytes(old for old in range(256) for _ in range(256))
    chunk = bytes(range(256)) * 256
    _, amounts = delta.diff(base, chunk)
    assert list(amounts) == [(new - old) % 256 for old, new in zip(base, chunk, strict=True) if new != old]
    assert delta.apply(base, *delta.diff(base, chunk)) == chunk


@pytest.mark.parametrize("positions", [b"\x00\x00", b"", b"\x04", b"\xff"])
def test_streams_that_don_t_fit_make_nothing(positions):
    """Too many positions or too few, or one behind the end."""
    assert delta.apply(b"abcd", positions, b"\x01") is None


@pytest.mark.parametrize(("share", "most"), [(0.05, 0.08), (0.2, 0.25)])
def test_a_retrained_chunk_is_sent_as_a_small_difference(share, most):
    """Near the entropy of which bytes changed and by how much."""
    chunk = changed(share)
    payload = chunks.to_wire_from(BASE, chunk)
    assert len(payload) < most * chunks.CHUNK_BYTES
    assert chunks.from_wire(payload, chunks.sha256(chunk), BASE) == chunk


def test_where_a_difference_is_no_gain_the_whole_chunk_is_sent():
    """Another length, or another content altogether."""
    for chunk in (BASE[:-1], np.random.default_rng(2).bytes(chunks.CHUNK_BYTES), bytes(chunks.CHUNK_BYTES)):
        payload = chunks.to_wire_from(BASE, chunk)
        assert payload == chunks.to_wire(chunk)
        assert chunks.from_wire(payload, chunks.sha256(chunk), BASE) == chunk


def test_a_difference_to_another_base_is_refused():
    """The result's digest decides: a damaged base is noticed."""
    chunk = changed(0.05)
    payload = chunks.to_wire_from(BASE, chunk)
    for base in (changed(0.01, seed=3), BASE[:-1], b""):
        with pytest.raises(RejectedError) as caught:
            chunks.from_wire(payload, chunks.sha256(chunk), base)
        assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("at", [0, 1, 2, 3, 10, -1])
def test_a_damaged_difference_is_refused(at):
    """Whatever byte is flipped, or cut off."""
    chunk = changed(0.05)
    payload = bytearray(chunks.to_wire_from(BASE, chunk))
    payload[at] ^= 0x55
    for damaged in (bytes(payload), bytes(payload[:at]), bytes(payload) * 20):
        with pytest.raises(RejectedError):
            chunks.from_wire(damaged, chunks.sha256(chunk), BASE)

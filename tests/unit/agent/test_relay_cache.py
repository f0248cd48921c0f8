"""A relay's cache: bounded, the longest unused first to go, nothing given out but what was put in."""

import errno
import os
from pathlib import Path

import pytest

from edgeml_agent.relay.cache import Cache
from edgeml_core.errors import DeviceError, RejectedError

KEY = "0" * 32
DIFFERENCE = f"{KEY}/{'1' * 32}"


def test_wire_returns_the_payload_that_was_put(tmp_path):
    """Also by another process, later; a difference is something else than the whole."""
    cache = Cache(tmp_path / "relay", 10_000)
    cache.put(KEY, b"whole")
    cache.put(DIFFERENCE, b"difference")
    for opened in (cache, Cache(tmp_path / "relay", 10_000)):
        assert (opened.wire(KEY), opened.wire(DIFFERENCE)) == (b"whole", b"difference")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rot"),
                                    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?")])  # fmt: skip
def test_damaged_copy_is_forgotten(tmp_path, damage):
    """It is neither given out nor said to be here."""
    cache = Cache(tmp_path, 10_000)
    cache.put(KEY, b"whole")
    damage(tmp_path / KEY)
    with pytest.raises(RejectedError):
        cache.wire(KEY)
    assert not cache.has(KEY)


def test_put_beyond_the_bound_removes_the_least_recently_used(tmp_path):
    """Reading counts as use; a new process goes by the files' times."""
    cache = Cache(tmp_path, 350)
    for name in "abc":
        cache.put(name, bytes(68))
    cache.wire("a")
    cache.put("d", bytes(68))
    assert [name for name in "abcd" if cache.has(name)] == ["a", "c", "d"]
    for age_s, name in enumerate("dca"):
        os.utime(tmp_path / name, (1_000_000 - age_s, 1_000_000 - age_s))
    smaller = Cache(tmp_path, 200)
    assert [name for name in "acd" if smaller.has(name)] == ["c", "d"]
    assert not (tmp_path / "a").exists()


def test_dropped_payload_takes_no_room(tmp_path):
    """And can be put in again."""
    cache = Cache(tmp_path, 250)
    cache.put("a", bytes(68))
    cache.drop("a")
    cache.drop("never here")
    cache.put("b", bytes(68))
    cache.put("c", bytes(68))
    assert (cache.has("a"), cache.has("b"), cache.has("c")) == (False, True, True)


def test_failing_disk_is_store_failed(tmp_path):
    """At the start and when something is put in."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cache failed"):
        Cache(tmp_path / "file", 1000)
    cache = Cache(tmp_path / "relay", 1000)
    (tmp_path / "relay").rmdir()
    with pytest.raises(DeviceError, match="cache failed"):
        cache.put(KEY, b"whole")


def test_payload_that_can_not_be_removed_is_forgotten(tmp_path):
    """As on a card that the kernel has remounted read-only: an error would end the relay, and its own models."""
    cache = Cache(tmp_path, 100)
    cache.put(KEY, b"whole")
    (tmp_path / KEY).unlink()
    (tmp_path / KEY).mkdir()
    with pytest.raises(RejectedError):
        cache.wire(KEY)
    cache.drop(KEY)
    assert not cache.has(KEY)


def test_file_that_a_power_cut_left_takes_no_room(tmp_path):
    """It is part of a payload, and no later process would count it."""
    (tmp_path / f"{KEY}.new").write_bytes(bytes(68))
    Cache(tmp_path, 1000)
    assert not list(tmp_path.iterdir())


def test_put_on_a_full_disk_removes_the_least_recently_used(tmp_path, monkeypatch):
    """Else a relay would pull each chunk again at every want, and give it to nobody."""
    cache, write = Cache(tmp_path, 10_000), Path.write_bytes

    def write_where_room_is(path, data):
        room = 250 - sum(held.stat().st_size for held in tmp_path.iterdir() if held != path)
        write(path, data[:room])
        if len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_where_room_is)
    for name in "abc":
        cache.put(name, bytes(68))
    assert [name for name in "abc" if cache.has(name)] == ["b", "c"]
    assert cache.wire("c") == bytes(68)
    with pytest.raises(DeviceError, match="cache failed"):
        cache.put("d", bytes(300))
    assert not list(tmp_path.iterdir())

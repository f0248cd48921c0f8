"""Locks between processes; a second open file is as good as a second process."""

import threading

import pytest

from edgeml_agent.store import locks
from edgeml_core.errors import DeviceError


def test_a_lock_is_held_by_one(tmp_path):
    """And free again once it is closed."""
    first = locks.take(tmp_path / "store" / "agent.lock")
    assert first is not None
    assert locks.take(tmp_path / "store" / "agent.lock") is None
    first.close()
    again = locks.take(tmp_path / "store" / "agent.lock")
    assert again is not None
    again.close()


def test_waiting_for_a_lock(tmp_path):
    """Until its holder is done."""
    order = []
    holder = locks.take(tmp_path / "trust.lock")

    def wait():
        with locks.held(tmp_path / "trust.lock"):
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.1)
    order.append("first")
    holder.close()
    waiting.join(10)
    assert order == ["first", "second"]


def test_a_folder_that_can_t_be_made_is_a_device_error(tmp_path):
    """Not a traceback."""
    (tmp_path / "store").write_bytes(b"a file")
    with pytest.raises(DeviceError, match="can't make"):
        locks.take(tmp_path / "store" / "agent.lock")


def test_looking_at_a_lock_makes_no_file(tmp_path):
    """And needs no right to write."""
    path = tmp_path / "store" / "agent.lock"
    assert not locks.is_held(path)
    assert not path.parent.exists()
    holder = locks.take(path)
    path.chmod(0o444)
    assert locks.is_held(path)
    holder.close()
    assert not locks.is_held(path)

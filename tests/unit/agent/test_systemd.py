"""Notifications to systemd, over a real socket."""

import asyncio
import os
import socket

import pytest

from edgeml_agent.http_api import server
from edgeml_agent.system.systemd import READY, Supervisor


@pytest.fixture
def manager(tmp_path):
    """A socket as systemd's, and its address."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        yield manager, address


def test_run_notifies_when_the_agent_is_ready(manager):
    """Not before; without a watchdog that is all."""
    receiver, address = manager
    looks = []

    def is_ready():
        looks.append(True)
        return len(looks) > 2

    asyncio.run(asyncio.wait_for(Supervisor({"NOTIFY_SOCKET": address}).run(is_ready), 20))
    assert receiver.recv(100) == READY.encode()
    assert len(looks) == 3
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


@pytest.mark.parametrize(("pid", "is_watched"), [(os.getpid(), True), (1, False)], ids=["own", "another"])
def test_run_confirms_life_to_the_watchdog_of_this_process(manager, pid, is_watched):
    """A watchdog of another process isn't answered."""
    receiver, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(pid)}

    async def main():
        task = asyncio.create_task(Supervisor(environment).run(lambda: True))
        assert await asyncio.to_thread(receiver.recv, 100) == READY.encode()
        if is_watched:
            assert await asyncio.to_thread(receiver.recv, 100) == b"WATCHDOG=1"
        else:
            await asyncio.wait([task], timeout=0.2)
        task.cancel()

    asyncio.run(main())
    receiver.setblocking(False)
    if not is_watched:
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def test_notify_takes_abstract_addresses():
    """An @ stands for the leading zero byte."""
    name = f"edgeml-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(20)
        Supervisor({"NOTIFY_SOCKET": f"@{name}"}).notify(READY)
        assert receiver.recv(100) == READY.encode()


def test_notify_without_a_listener_does_nothing(tmp_path):
    """A supervisor that has gone is no error of the agent."""
    Supervisor({}).notify(READY)
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "absent")}).notify(READY)


def test_socket_elsewhere_than_the_settings_is_logged(monkeypatch, caplog):
    """Its address counts, and the one in agent.toml had no effect without a word."""
    with server.listen("127.0.0.1", 0) as passed:
        port = passed.getsockname()[1]
        monkeypatch.setattr(server, "inherited", lambda environment: passed)
        for host in ("127.0.0.1", "localhost"):
            assert server.inherited_or_new({}, host, port) is passed
        assert caplog.text == ""
        assert server.inherited_or_new({}, "0.0.0.0", port) is passed  # noqa: S104 - isn't bound
        assert "listening elsewhere" in caplog.text
        assert f"listens on 127.0.0.1:{port}, not on 0.0.0.0:{port}" in caplog.text

"""Requests in threads: how they end when they take too long."""

from __future__ import annotations

import asyncio
import socket
import threading
from http.client import HTTPConnection

import pytest

from edgeml_io import http_client


class Vanishing(HTTPConnection):
    """A connection whose thread closes it after the first look at its socket."""

    def __init__(self, first: socket.socket) -> None:
        self.looks = [first]
        super().__init__("localhost")

    @property
    def sock(self) -> socket.socket | None:
        """The socket, once."""
        return self.looks.pop() if self.looks else None

    @sock.setter
    def sock(self, value: socket.socket | None) -> None:
        assert value is None


def test_socket_that_the_thread_closes_meanwhile_leaves_a_timeout():
    """Callers expect `FAILURES`; an AttributeError would end the agent or the host."""
    ends = threading.Event()

    async def run(made: HTTPConnection) -> None:
        asyncio.get_running_loop().call_later(0.1, ends.set)
        await http_client.run(made, lambda _: ends.wait(), timeout_s=0.05)

    with socket.socket() as first, pytest.raises(TimeoutError):
        asyncio.run(run(Vanishing(first)))

"""Requests by Python's own HTTP client from an event loop: in a thread, with a bound in time for the whole of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from http.client import HTTP_PORT, HTTPS_PORT, HTTPConnection, HTTPException
from typing import Final, TypeVar
from urllib.parse import SplitResult

#: The errors of a request; a ValueError is for an answer that is no use.
FAILURES: Final = (OSError, ValueError, HTTPException)

T = TypeVar("T")


class Connection(HTTPConnection):
    """A connection to the server of a URL, which its first request opens.

    It remembers its socket: an answer with `Connection: close` takes the socket away before its body is read.

    Args:
        url: `http` or `https`, with a host.
        context: of TLS; None for plain HTTP.
        timeout_s: of each step.
    """

    def __init__(self, url: SplitResult, context: ssl.SSLContext | None, timeout_s: float) -> None:
        self.default_port = HTTP_PORT if context is None else HTTPS_PORT
        super().__init__(url.hostname or "", url.port or self.default_port, timeout=timeout_s)
        self._context = context
        self.opened: socket.socket | None = None
        #: Whether nobody waits for its answer any more.
        self.is_given_up = False

    def connect(self) -> None:
        """Open the connection; its socket is known before the handshake, in which a server may be silent, too.

        Raises:
            TimeoutError: its request has been given up, so that nothing would wake up the thread.
        """
        super().connect()
        secured = None
        if self._context is not None:
            secured = self._context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = secured
        self.opened = self.sock
        if self.is_given_up:
            self.close()
            raise TimeoutError("the request has been given up")
        if secured is not None:
            secured.do_handshake()


async def run(
    made: Connection, use: Callable[[Connection], T], *, timeout_s: float, threads: Executor | None = None
) -> T:
    """Let `use` send a request and read its answer in a thread. A connection whose request fails is closed.

    Args:
        made: the connection; one request at a time uses it.
        use: may raise any of `FAILURES`.
        timeout_s: of all of it.
        threads: where it runs; None is the event loop's own.

    Raises:
        OSError: no answer, a broken one, or none within `timeout_s` (TimeoutError).
        HTTPException: an answer that isn't HTTP.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().run_in_executor(threads, use, made)
    except BaseException:
        # The thread may still wait for bytes: the end of the connection wakes it up. It opens no other one.
        made.is_given_up = True
        with contextlib.suppress(OSError):
            if made.opened is not None:
                made.opened.shutdown(socket.SHUT_RDWR)
        made.close()
        raise

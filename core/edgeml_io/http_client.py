"""Requests by Python's own HTTP client from an event loop: in a thread, with a bound in time for the whole of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final, TypeVar
from urllib.parse import SplitResult

#: The errors of a request; a ValueError is for an answer that is no use.
FAILURES: Final = (OSError, ValueError, HTTPException)

T = TypeVar("T")


def connection(url: SplitResult, context: ssl.SSLContext | None, timeout_s: float) -> HTTPConnection:
    """Make a connection to the server of a URL, which its first request opens.

    Args:
        url: `http` or `https`, with a host.
        context: of TLS; None for plain HTTP.
        timeout_s: of each step.
    """
    host, port = url.hostname or "", url.port
    if context is None:
        return HTTPConnection(host, port, timeout=timeout_s)
    return HTTPSConnection(host, port, timeout=timeout_s, context=context)


async def run(
    made: HTTPConnection, use: Callable[[HTTPConnection], T], *, timeout_s: float, threads: Executor | None = None
) -> T:
    """Let `use` send a request and read its answer in a thread. A connection whose request fails is closed.

    Args:
        made: by `connection`; one request at a time uses it.
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
        # The thread may still wait for bytes: the end of the connection wakes it up.
        with contextlib.suppress(OSError):
            if (opened := made.sock) is not None:  # read once: the thread may close it meanwhile
                opened.shutdown(socket.SHUT_RDWR)
        made.close()
        raise

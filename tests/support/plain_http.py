"""HTTP at little cost, so that clients don't slow down the server that they share a machine with.

A kept connection's bodies need a Content-Length.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

#: `verify` of httpx clients that use no TLS: otherwise each reads all authorities, which takes 40 ms of CPU time.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Answer(NamedTuple):
    """One response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


class Connection:
    """A connection for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes) -> Answer:
        """Send a request, and wait for the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, content)


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[Connection]:
    """Connect to a port of this computer for the time of a block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()

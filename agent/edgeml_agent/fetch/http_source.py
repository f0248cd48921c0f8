"""Chunks from an HTTP server or cache, and from the broker where that fails: a `ChunkSource` before another one.

The server has a file for each chunk, `URL/ab/ab12...`, as `edgeml repo mirror` writes them. Nothing of it is trusted:
the window checks each digest, and a chunk that is requested again comes over the broker. Deltas are requested whole.
No redirect is followed. Some connections stay open, and each request has a bound in time and bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult

from edgeml_agent import log
from edgeml_agent.link.rate_limit import RateLimit
from edgeml_agent.ports import Arrival, ChunkSource
from edgeml_core import wire_keys
from edgeml_core.errors import TransportError, UsageError
from edgeml_io import http_client, tls

#: Connections at a time: enough to hide the latency of a distant server.
CONNECTIONS: Final = 4
#: Seconds for one request.
TIMEOUT_S: Final = 10.0
#: Bytes of an answer: a chunk, its encryption, and some room.
BODY_MAX_BYTES: Final = 80 * 1024
#: Failures in a row after which all chunks come over the broker, and the seconds until HTTP is tried again.
FAILURES_MAX: Final = 3
PAUSE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class ChunkServer:
    """The server's address, and the authority that replaces the system's."""

    url: SplitResult
    ca: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """Make the TLS context; None for plain HTTP.

        Raises:
            UsageError: `config-invalid`, when the authority's file can't be used.
        """
        try:
            return tls.client_context(ca=self.ca, cert=None, key=None) if self.url.scheme == "https" else None
        except OSError as error:
            raise UsageError("config-invalid", f"[fetch] ca can't be used: {error}", "name a PEM file") from error


class HttpChunks:
    """See `ChunkSource`.

    Args:
        server: where the chunks' files are.
        broker: the source of chunks that HTTP doesn't give.
        max_bytes_per_s: a limit on arriving chunks; None sets none.
    """

    def __init__(self, server: ChunkServer, broker: ChunkSource, max_bytes_per_s: int | None = None) -> None:
        self._client = _Client(server)
        self._broker = broker
        self._limit = RateLimit(max_bytes_per_s)
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._requests: dict[str, asyncio.Task[None]] = {}
        #: Ids that were requested over HTTP: a second request goes to the broker.
        self._tried: set[str] = set()
        self._listening: asyncio.Task[None] | None = None
        self._failures = 0
        self._paused_until_s = 0.0

    @property
    def position(self) -> str:
        """See `ChunkSource.position`."""
        return self._broker.position

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`."""
        self._tried.clear()
        if not release:
            for task in (*self._requests.values(), *filter(None, [self._listening])):
                task.cancel()
            self._requests.clear()
            self._listening = None
            self._client.close()
            while not self._arrivals.empty():
                self._arrivals.get_nowait()
        await self._broker.follow(release)

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`."""
        await asyncio.sleep(self._limit.wait_s(time.monotonic()))
        is_paused = time.monotonic() < self._paused_until_s
        over_http = [it for it in keys if not is_paused and wire_keys.ids(it)[0] not in self._tried]
        for key in over_http:
            self._tried.add(wire_keys.ids(key)[0])
            self._requests[key] = asyncio.create_task(self._request(key))
        if others := [it for it in keys if it not in over_http]:
            await self._want_from_broker(others)

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._arrivals.get()
        return None

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`."""
        for key in keys:
            if (task := self._requests.pop(key, None)) is not None:
                task.cancel()
        await self._broker.drop(keys)

    async def _request(self, key: str) -> None:
        try:
            async with self._free:
                payload = await self._client.get(wire_keys.ids(key)[0])
        except TransportError as error:
            self._on_failure(error)
            # The broker may be away; the window asks again after its silence.
            with contextlib.suppress(TransportError):
                await self._want_from_broker([key])
            return
        self._failures = 0
        self._limit.spend(len(payload), time.monotonic())
        self._arrivals.put_nowait(Arrival(key=key, payload=payload))

    def _on_failure(self, error: TransportError) -> None:
        self._failures += 1
        if self._failures == FAILURES_MAX:
            self._failures, self._paused_until_s = 0, time.monotonic() + PAUSE_S
            log.failure("chunks over HTTP fail", error, pause_s=PAUSE_S)

    async def _want_from_broker(self, keys: Collection[str]) -> None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        await self._broker.want(keys)

    async def _listen(self) -> None:
        while True:
            arrival = await self._broker.receive(PAUSE_S)
            if arrival is not None:
                self._limit.spend(len(arrival.payload), time.monotonic())
                self._arrivals.put_nowait(arrival)


class _Client:
    """Requests over a few kept connections, each used by one request at a time, in threads of their own."""

    def __init__(self, server: ChunkServer) -> None:
        self._server = server
        self._context = server.context()
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="chunks-http")
        self._idle: list[http_client.Connection] = []

    async def get(self, chunk_id: str) -> bytes:
        """Return the file of a chunk.

        Raises:
            TransportError: `chunk-timeout`, when there is none within the bounds.
        """
        url = self._server.url
        connection = self._idle.pop() if self._idle else http_client.Connection(url, self._context, TIMEOUT_S)
        path = f"{url.path.rstrip('/')}/{chunk_id[:2]}/{chunk_id}"
        try:
            read = partial(_read, path=path)
            body = await http_client.run(connection, read, timeout_s=TIMEOUT_S, threads=self._threads)
        except http_client.FAILURES as error:
            problem = f"gave no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)
            host = f"{url.scheme}://{url.netloc}"
            hint = "check [fetch] http and ca in agent.toml, and the server; the broker sends the chunk"
            raise TransportError("chunk-timeout", f"{host} gave no chunk {chunk_id[:12]}: {problem}", hint) from error
        self._idle.append(connection)
        return body

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop().close()


def _read(connection: HTTPConnection, path: str) -> bytes:
    """Read a file, over another connection where the server has closed this one meanwhile.

    Raises:
        OSError: there is no answer. ValueError: it is no chunk.
    """
    was_kept = connection.sock is not None
    try:
        return _answer(connection, path)
    except ConnectionError:
        connection.close()
        if not was_kept:
            raise
    return _answer(connection, path)


def _answer(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"User-Agent": "edgeml"})
    response = connection.getresponse()
    body = response.read(BODY_MAX_BYTES + 1) if response.status == HTTPStatus.OK else b""
    if response.status != HTTPStatus.OK or len(body) > BODY_MAX_BYTES or response.length:
        connection.close()
        raise ValueError(f"it answered {response.status} with {len(body)} bytes")
    return body

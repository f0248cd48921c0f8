"""A proxy between device and broker that counts the bytes of TCP, both ways together; it neither delays nor loses.

Before several brokers it leads each new connection to the first one that listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from support.brokers import listens
from support.waiting import TIMEOUT_S

READ_BYTES: Final = 64 * 1024
STOP_TIMEOUT_S: Final = 10.0


class Counter:
    """Its port, and the number of bytes that have passed."""

    def __init__(self) -> None:
        self.port = 0
        self.passed_bytes = 0

    async def serve(self, broker_ports: Sequence[int], started: threading.Event, stop: asyncio.Event) -> None:
        """Pass bytes on until `stop` is set."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                port = next((it for it in broker_ports if listens(it)), broker_ports[-1])
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await stop.wait()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            self.passed_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def counting(*broker_ports: int) -> Iterator[Counter]:
    """Run a counter in front of a broker, in a thread; of several, each connection takes the first that listens."""
    counter, loop, started, stop = Counter(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    work = counter.serve(broker_ports, started, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(work,), daemon=True)
    thread.start()
    if not started.wait(TIMEOUT_S):
        raise RuntimeError("the proxy didn't start")
    try:
        yield counter
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_TIMEOUT_S)

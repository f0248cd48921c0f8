"""A slow link in front of a broker, with a bit rate and a round trip time, in a thread of its own.

It loses nothing while a connection lasts. Bytes that the broker sends too fast wait at the broker, as behind a modem.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from support.waiting import TIMEOUT_S

STOP_TIMEOUT_S: Final = 10.0
LATE_MOST_S: Final = 0.2
#: Bytes read at a time.
PIECE_BYTES: Final = 4096
#: Bytes that the modem holds, beside those on their way.
BUFFER_BYTES: Final = 16 * 1024

#: Pieces, and the time at which each comes out; an empty one is the end.
_OnItsWay = asyncio.Queue[tuple[float, bytes]]


@dataclass
class SlowLink:
    """A link, and the number of bytes that it has passed to the device.

    Args:
        breaks_after_s: the mean time until a connection breaks without a goodbye; None lets them last.
    """

    bytes_per_s: float
    round_trip_s: float
    port: int = 0
    down_bytes: int = 0
    breaks_after_s: float | None = None

    async def serve(self, broker_port: int, started: threading.Event, stop: asyncio.Event) -> None:
        """Pass bytes on until `stop` is set."""
        connections: list[asyncio.Future[object]] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", broker_port, limit=BUFFER_BYTES)
            if self.breaks_after_s is not None:
                after_s = np.random.default_rng().exponential(self.breaks_after_s)
                for side in (writer, there_writer):
                    asyncio.get_running_loop().call_later(after_s, side.transport.abort)
            up: _OnItsWay = asyncio.Queue()
            down: _OnItsWay = asyncio.Queue()
            connections.append(
                asyncio.gather(
                    self._take(reader, up, is_down=False),
                    self._take(there_reader, down, is_down=True),
                    _deliver(up, there_writer),
                    _deliver(down, writer),
                )
            )

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await stop.wait()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, on_its_way: _OnItsWay, *, is_down: bool) -> None:
        """Read pieces as fast as the link allows."""
        clock = asyncio.get_running_loop().time
        free_s = clock()
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                # A late wake-up isn't the link's delay: the next piece makes up for it.
                free_s = max(free_s, clock() - LATE_MOST_S) + len(data) / self.bytes_per_s
                on_its_way.put_nowait((max(free_s, clock()) + self.round_trip_s / 2, data))
                self.down_bytes += len(data) if is_down else 0
                await asyncio.sleep(free_s - clock())
        on_its_way.put_nowait((clock() + self.round_trip_s / 2, b""))


async def _deliver(on_its_way: _OnItsWay, writer: asyncio.StreamWriter) -> None:
    """Write each piece at its time; an empty one is the end."""
    with contextlib.suppress(OSError):
        while True:
            due_s, data = await on_its_way.get()
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def slow_line(broker_port: int, *, bits_per_s: float, round_trip_s: float) -> Iterator[SlowLink]:
    """Put a link in front of a broker's port."""
    line = SlowLink(bits_per_s / 8, round_trip_s)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    work = line.serve(broker_port, started, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(work,), daemon=True)
    thread.start()
    if not started.wait(TIMEOUT_S):
        raise RuntimeError("the link didn't start")
    try:
        yield line
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_TIMEOUT_S)

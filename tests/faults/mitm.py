"""A man in the middle between devices and broker: a TCP proxy in a thread.

As a bad link it delays, splits, stalls and cuts. As an attacker it knows MQTT's frames. It drops, changes, repeats and
invents publications to the devices, or acts as the broker itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from support.waiting import TIMEOUT_S

READ_BYTES: Final = 64 * 1024
PUBLISH: Final = 3
_V5: Final = 5
_NAME: Final = b"MQTT"


@dataclass(frozen=True)
class Frame:
    """One MQTT packet; a publication also has its topic and payload."""

    kind: int
    raw: bytes
    topic: str = ""
    payload: bytes = b""
    #: Flags, and what stands between topic and payload: packet id and properties.
    flags: int = 0
    between: bytes = b""

    def but(self, *, topic: str | None = None, payload: bytes | None = None) -> Frame:
        """Return the same publication with another topic or payload."""
        return published(
            self.topic if topic is None else topic,
            self.payload if payload is None else payload,
            flags=self.flags,
            between=self.between,
        )


#: Maps a frame to the frames that the device receives.
Meddle = Callable[[Frame], list[Frame]]
#: Acts as the broker on one connection.
Impostor = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LinkFaults:
    """The faults of the link, both ways."""

    delay_s: float = 0.0
    #: Bytes that are written at a time; 0: as they come.
    piece_bytes: int = 0
    #: Keeps all bytes and passes none on, as a pulled cable does.
    is_dead: bool = False
    #: Cuts a connection after this number of bytes to the device; 0: never.
    cut_after_bytes: int = 0


def honest(frame: Frame) -> list[Frame]:
    """Pass everything on as it is."""
    return [frame]


class Mitm:
    """The proxy; all attributes may be changed while it runs.

    Args:
        broker_port: where the broker listens.
    """

    def __init__(self, broker_port: int) -> None:
        self.broker_port = broker_port
        self.port = 0
        self.line = LinkFaults()
        self.meddle: Meddle = honest
        self.impostor: Impostor | None = None
        self.connections = 0
        self._devices: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)

    def start(self) -> None:
        """Listen, on `port`."""
        self._thread.start()
        assert self._started.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT_S)

    def cut(self) -> None:
        """Reset all connections."""
        self._loop.call_soon_threadsafe(lambda: [connection.cut() for connection in list(self._devices)])

    def inject(self, *frames: Frame | bytes) -> None:
        """Send frames to all devices, as the broker would."""
        raw = b"".join(frame if isinstance(frame, bytes) else frame.raw for frame in frames)
        self._loop.call_soon_threadsafe(lambda: [connection.send(raw) for connection in list(self._devices)])

    async def _run(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for connection in list(self._devices):
            connection.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.impostor is not None:
                await self.impostor(reader, writer)
            else:
                await _Connection(self, reader, writer).run(self._devices)
        writer.transport.abort()


class _Connection:
    """One device's connection, and the proxy's connection to the broker for it."""

    def __init__(self, mitm: Mitm, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._mitm = mitm
        self._reader = reader
        self._writer = writer
        self._is_v5 = False
        self._sent_bytes = 0

    async def run(self, connected: set[_Connection]) -> None:
        """Pass frames on until one side closes."""
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._mitm.broker_port)
        connected.add(self)
        tasks = [
            asyncio.create_task(self._to_broker(broker_writer)),
            asyncio.create_task(self._to_device(broker_reader)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connected.discard(self)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            broker_writer.transport.abort()

    def cut(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()

    def send(self, raw: bytes) -> None:
        """Send bytes to the device between two frames."""
        self._writer.write(raw)

    async def _to_broker(self, writer: asyncio.StreamWriter) -> None:
        is_first = True
        while data := await self._reader.read(READ_BYTES):
            if is_first:
                self._is_v5, is_first = data[data.index(_NAME) + len(_NAME)] == _V5, False
            await self._pass_on(writer, data)

    async def _to_device(self, reader: asyncio.StreamReader) -> None:
        while True:
            received = await read_frame(reader, is_v5=self._is_v5)
            for frame in self._mitm.meddle(
                received
            ):  # looked up now, so that a change holds for the first frame after it
                await self._pass_on(self._writer, frame.raw)
                self._sent_bytes += len(frame.raw)
                if 0 < self._mitm.line.cut_after_bytes < self._sent_bytes:
                    return

    async def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        line = self._mitm.line
        while line.is_dead:
            await asyncio.sleep(0.05)
            line = self._mitm.line
        await asyncio.sleep(line.delay_s)
        size = line.piece_bytes or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if line.piece_bytes:
                await asyncio.sleep(0)


async def read_frame(reader: asyncio.StreamReader, *, is_v5: bool) -> Frame:
    """Read the next packet."""
    head = await reader.readexactly(1)
    length, size = 0, 0
    while True:
        digit = await reader.readexactly(1)
        head += digit
        length |= (digit[0] & 0x7F) << (7 * size)
        size += 1
        if not digit[0] & 0x80:
            break
    body = await reader.readexactly(length)
    kind, flags = head[0] >> 4, head[0] & 0xF
    if kind != PUBLISH:
        return Frame(kind, head + body)
    topic_end = 2 + int.from_bytes(body[:2], "big")
    payload_at = topic_end + (2 if flags & 0b0110 else 0)
    if is_v5:
        payload_at += 1 + body[payload_at]  # our publications have few properties: one byte holds their length
    return Frame(kind, head + body, body[2:topic_end].decode(), body[payload_at:], flags, body[topic_end:payload_at])


def published(topic: str, payload: bytes, *, flags: int = 0, between: bytes = b"\x00") -> Frame:
    """Make a publication; by default of QoS 0, not retained, in MQTT 5 without properties."""
    name = topic.encode("utf-8", "surrogateescape")
    body = len(name).to_bytes(2, "big") + name + between + payload
    return Frame(PUBLISH, bytes([PUBLISH << 4 | flags]) + varint(len(body)) + body, topic, payload, flags, between)


def varint(number: int) -> bytes:
    """Encode a length as MQTT does."""
    digits = bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


@contextmanager
def mitm(broker_port: int) -> Iterator[Mitm]:
    """Run a proxy in front of a broker."""
    made = Mitm(broker_port)
    made.start()
    try:
        yield made
    finally:
        made.stop()

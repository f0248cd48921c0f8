"""What answers at the broker's address isn't one, or not one of ours: what serves goes on serving.

Each is refused with broker-unreachable in the log; the next update arrives when the right broker is back.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.mitm import READ_BYTES, Impostor
from faults.world import World, until, world

#: A CONNACK of MQTT 5: not authorized.
NOT_AUTHORIZED: Final = bytes([0x20, 3, 0, 0x87, 0])


async def silent(reader: StreamReader, _: StreamWriter) -> None:
    """Accepts, and says nothing."""
    while await reader.read(READ_BYTES):
        pass


async def refusing(reader: StreamReader, writer: StreamWriter) -> None:
    """Knows nobody."""
    await reader.read(READ_BYTES)
    writer.write(NOT_AUTHORIZED)
    await writer.drain()


async def another_protocol(reader: StreamReader, writer: StreamWriter) -> None:
    """Speaks HTTP."""
    await reader.read(READ_BYTES)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


IMPOSTORS: Final[tuple[Impostor, ...]] = (silent, refusing, another_protocol)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    """One device."""
    with world(tmp_path, through_mitm=True) as made:
        yield made


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=lambda impostor: impostor.__name__)
def test_serving_goes_on(made: World, impostor: Impostor) -> None:
    """The right broker's connection is cut, and another answers at its address."""
    assert made.road is not None
    since = len(made.device.log.read_text())
    made.road.impostor = impostor
    made.road.cut()
    # The first time for the connection that was cut.
    until(lambda: made.device.log.read_text()[since:].count('code="broker-unreachable"') >= 2, "it is refused")
    made.audit()
    made.road.impostor = None
    made.deploy(version := made.release())
    made.converges(version)
    campaign.count("hostile brokers refused")

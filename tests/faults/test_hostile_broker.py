"""What answers at the broker's address isn't one, or not one of ours: what serves goes on serving.

Each is refused with its code in the log, and takes no memory; the next update arrives when the right broker is back.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.fleet import Fleet, fleet, until
from faults.mitm import READ_BYTES, Impostor, published

#: Minutes of waiting for keepalives and time limits.
pytestmark = pytest.mark.nightly

#: CONNACKs: not authorized, of MQTT 5 and of 3.1.1; and welcome, of MQTT 5.
NOT_AUTHORIZED: Final = {5: bytes([0x20, 3, 0, 0x87, 0]), 4: bytes([0x20, 2, 0, 5])}
WELCOME: Final = bytes([0x20, 3, 0, 0, 0])
#: A publication of 256 MB begins.
ENDLESS: Final = bytes([0x30, 0xFF, 0xFF, 0xFF, 0x7F])
#: Topics that nobody may publish on: not UTF-8, and with wildcards.
NO_TOPICS: Final = ("edgeml/1/farm/trust/\udcff", "edgeml/1/farm/+/#")
UNREACHABLE: Final = "broker-unreachable"
#: What an agent may take more while it is refused: connections and threads.
MEMORY_MAX_KB: Final = 16 * 1024


async def silent(reader: StreamReader, _: StreamWriter) -> None:
    """Accepts, and says nothing."""
    while await reader.read(READ_BYTES):
        pass


async def refusing(reader: StreamReader, writer: StreamWriter) -> None:
    """Knows nobody."""
    connect = await reader.read(READ_BYTES)
    writer.write(NOT_AUTHORIZED[connect[connect.index(b"MQTT") + len(b"MQTT")]])
    await writer.drain()


async def another_protocol(reader: StreamReader, writer: StreamWriter) -> None:
    """Speaks HTTP."""
    await reader.read(READ_BYTES)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def endless(reader: StreamReader, writer: StreamWriter) -> None:
    """Welcomes the device, and tells it without end."""
    await reader.read(READ_BYTES)
    writer.write(WELCOME + ENDLESS)
    while not reader.at_eof():
        writer.write(bytes(READ_BYTES))
        await writer.drain()


IMPOSTORS: Final[dict[Impostor, str]] = {
    silent: UNREACHABLE,
    refusing: "broker-refused",
    another_protocol: UNREACHABLE,
    endless: "broker-misbehaves",
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Fleet]:
    """One device."""
    with fleet(tmp_path, through_mitm=True) as made:
        yield made


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=lambda impostor: impostor.__name__)
def test_serving_goes_on(made: Fleet, impostor: Impostor) -> None:
    """The right broker's connection is cut, and another answers at its address."""
    assert made.mitm is not None
    since, peak_kb = len(made.device.log.read_text()), peak_memory_kb(made)
    code = IMPOSTORS[impostor]
    made.mitm.impostor = impostor
    made.mitm.cut()
    # The connection that was cut is unreachable, too.
    times = 1 + (code == UNREACHABLE)
    until(lambda: made.device.log.read_text()[since:].count(f'code="{code}"') >= times, "it is refused")
    made.audit()
    assert peak_memory_kb(made) - peak_kb < MEMORY_MAX_KB
    made.mitm.impostor = None
    made.deploy(version := made.release())
    made.converges(version)
    campaign.count("hostile brokers refused")


@pytest.mark.parametrize("topic", NO_TOPICS, ids=["not UTF-8", "wildcards"])
def test_a_topic_that_is_none(made: Fleet, topic: str) -> None:
    """The connection is given up, and the next one is as any."""
    assert made.mitm is not None
    since = len(made.device.log.read_text())
    made.mitm.inject(published(topic, b"x"))
    until(lambda: UNREACHABLE in made.device.log.read_text()[since:], "the connection is given up")
    made.deploy(version := made.release())
    made.converges(version)
    campaign.count("hostile brokers refused")


def peak_memory_kb(made: Fleet) -> int:
    """What the agent has had resident at most."""
    assert made.device.agent is not None
    status = Path(f"/proc/{made.device.agent.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

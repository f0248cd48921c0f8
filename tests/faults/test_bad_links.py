"""The link between a device and its broker fails in many ways; each time the update arrives in the end.

Bytes come late, one at a time, or stop half way. Publications get lost, come twice, out of order, or from another
connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pytest

from faults import campaign
from faults.attacked_fleet import TOPICS
from faults.fleet import Fleet, fleet, until
from faults.mitm import Frame, LinkFaults, Meddle, Mitm

CHUNK: Final = TOPICS.chunk("")
#: 20 chunks.
WEIGHTS_BYTES: Final = 20 * 64 * 1024


def lossy(chance: np.random.Generator) -> Meddle:
    """Every fifth chunk gets lost."""
    return lambda frame: [] if frame.topic.startswith(CHUNK) and chance.random() < 0.2 else [frame]


def repeating(chance: np.random.Generator) -> Meddle:
    """Chunks come up to four times."""
    return lambda frame: [frame] * (chance.integers(1, 5) if frame.topic.startswith(CHUNK) else 1)


def shuffling(chance: np.random.Generator) -> Meddle:
    """Chunks overtake each other: each waits for up to four others."""
    held: list[Frame] = []

    def meddle(frame: Frame) -> list[Frame]:
        if not frame.topic.startswith(CHUNK):
            return [frame]
        held.append(frame)
        if len(held) < chance.integers(1, 5):
            return []
        shuffled = [held[index] for index in chance.permutation(len(held))]
        held.clear()
        return shuffled

    return meddle


def damaging(chance: np.random.Generator) -> Meddle:
    """One bit of every eighth chunk is another."""

    def meddle(frame: Frame) -> list[Frame]:
        if not frame.topic.startswith(CHUNK) or chance.random() > 1 / 8:
            return [frame]
        payload = bytearray(frame.payload)
        payload[chance.integers(len(payload))] ^= 1 << chance.integers(8)
        return [frame.but(payload=bytes(payload))]

    return meddle


def resending(chance: np.random.Generator) -> Meddle:
    """What came before comes again, in the midst of what comes now, also out of another connection."""
    seen: list[Frame] = []

    def meddle(frame: Frame) -> list[Frame]:
        if not frame.topic or frame.flags & 0b0110:
            return [frame]
        seen.append(frame)
        return [frame, seen[chance.integers(len(seen))]]

    return meddle


FAULTS: Final[dict[str, LinkFaults]] = {
    "slow": LinkFaults(delay_s=0.15),
    "one byte at a time": LinkFaults(piece_bytes=1),
    "cut after every megabyte": LinkFaults(cut_after_bytes=1_000_000),
}
TRAFFIC: Final[dict[str, Callable[[np.random.Generator], Meddle]]] = {
    "lossy": lossy,
    "repeating": repeating,
    "shuffling": shuffling,
    "damaging": damaging,
    "resending": resending,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One device for all links: each update takes another."""
    with fleet(tmp_path_factory.mktemp("road"), through_mitm=True) as made:
        yield made


@pytest.fixture
def link(made: Fleet) -> Iterator[Mitm]:
    """The link, without faults at the end."""
    assert made.mitm is not None
    honest = made.mitm.meddle
    yield made.mitm
    made.mitm.line, made.mitm.meddle = LinkFaults(), honest


def test_update_over_a_reset_connection_arrives(made: Fleet, link: Mitm) -> None:
    """The connection is reset several times, at random instants. It comes first: later the agent would wait longer."""
    chance = campaign.chance("road resets")
    version = made.release(weights_bytes=WEIGHTS_BYTES)
    made.deploy(version)
    for _ in range(3):
        connections = link.connections
        time.sleep(chance.uniform(0.1, 1.0))
        link.cut()
        campaign.count("connections reset")
        until(lambda connections=connections: link.connections > connections, "the agent connects again")
    made.converges(version)
    campaign.count("updates over bad links")


@pytest.mark.parametrize("name", FAULTS)
def test_update_over_a_bad_link_arrives(made: Fleet, link: Mitm, name: str) -> None:
    """The faults last until the update has arrived."""
    link.line = FAULTS[name]
    arrives(made, WEIGHTS_BYTES // 10 if link.line.piece_bytes else WEIGHTS_BYTES)


@pytest.mark.parametrize("name", TRAFFIC)
def test_update_over_a_link_that_changes_traffic_arrives(made: Fleet, link: Mitm, name: str) -> None:
    """The changes last until the update has arrived."""
    link.meddle = TRAFFIC[name](campaign.chance(f"road {name}"))
    arrives(made, WEIGHTS_BYTES)


def arrives(made: Fleet, weights_bytes: int) -> None:
    """Check that the next version comes to answer over the link as it is."""
    version = made.release(weights_bytes=weights_bytes)
    made.deploy(version)
    made.converges(version)
    made.audit()
    campaign.count("updates over bad links")

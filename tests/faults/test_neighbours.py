"""One hostile neighbour at a time beside rollouts to three devices: nobody else waits for it or is refused.

The neighbour is a device with its own rights and password, a client on the network, or a full disk. By night rollouts
beside it take turns with rollouts without it, and take at most a quarter longer. The agents' memory stays bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from edgeml_core import messages, relay_batch, wire_keys
from edgeml_core.messages import Report, Topics, Want
from edgeml_core.relay_batch import RelayedMessage
from faults import campaign
from faults.disk import fill, mounted, needs_root
from faults.fleet import FLEET, Fleet, fleet
from faults.forked import Forked
from support.delivery_site import Observer
from support.plain_http import NO_TLS
from support.programs import enroll, host_command
from support.scale import IS_NIGHTLY, scaled

TOPICS: Final = Topics(FLEET)
DEVICES: Final = 3
#: An enrolled device without an agent: somebody has its password.
HOSTILE: Final = "board-9"
WEIGHTS_BYTES: Final = scaled(24, 1) * 1024**2
ROUNDS: Final = scaled(6, 1)
#: Rounds on a busy machine, whose other load falls on single rollouts: a neighbour that harms shows in any number.
ROUNDS_MAX: Final = 3 * ROUNDS
#: How much longer a rollout may take.
GROWTH_MAX: Final = 1.25
#: How much memory one program may gain: what was there before, caches and all, is some 120 MB.
MEMORY_MAX_BYTES: Final = 64 * 1024**2
#: Seconds between two messages of a flood.
FLOOD_EVERY_S: Final = 0.02
#: Seconds between two bodies: 2 MB/s, as a client's network has. More would measure what sending costs these cores.
BODY_EVERY_S: Final = 0.5
KEYS: Final = 64
REPORT_BYTES: Final = 60_000
RELAYED: Final = 10
CONNECTIONS: Final = 300
#: Arrays in a body of 1 MiB: each costs a thousand times its bytes once it is decoded.
ARRAYS: Final = b"[" + b",".join([b"[]"] * 300_000) + b"]"

Neighbour = Callable[[Fleet], AbstractContextManager[None]]


@contextmanager
def repeated(act: Callable[[int], None], every_s: float) -> Iterator[None]:
    """Do something again and again during the block."""
    ended = threading.Event()

    def run() -> None:
        number = 0
        while not ended.wait(every_s):
            act(number := number + 1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def wants(made: Fleet) -> Iterator[None]:
    """A device asks for deltas between any two chunks, without pause."""
    ids = [path.name[:32] for path in (made.repo / "chunks").rglob("*") if path.is_file()]
    choice = campaign.chance("wants of a neighbour")

    def want(_: int) -> None:
        keys = {wire_keys.join(*map(str, choice.choice(ids, 2, replace=False))) for _ in range(KEYS)}
        client.publish(TOPICS.want(HOSTILE), messages.encode(Want(keys=tuple(keys))))

    with contextlib.closing(Observer(made.broker.port)) as client, repeated(want, FLOOD_EVERY_S):
        yield


@contextmanager
def reports(made: Fleet) -> Iterator[None]:
    """A device reports about deployments that don't exist, at length."""

    def report(number: int) -> None:
        told = Report(deployment=f"d-{number}", name="m", version="x" * REPORT_BYTES, state="active", session=1)
        client.publish(TOPICS.report(HOSTILE), messages.encode(told))

    with contextlib.closing(Observer(made.broker.port)) as client, repeated(report, FLOOD_EVERY_S):
        yield


@contextmanager
def relayed(made: Fleet) -> Iterator[None]:
    """A relay passes on what its devices never reported, in long messages."""

    def relay(number: int) -> None:
        told = Report(deployment=f"d-{number}", name="m", version="x" * REPORT_BYTES, state="active", session=1)
        batch = [RelayedMessage(device=f"{HOSTILE}-{it}", report=told) for it in range(RELAYED)]
        for payload in relay_batch.pack(batch):
            client.publish(TOPICS.relay(HOSTILE), payload)

    with contextlib.closing(Observer(made.broker.port)) as client, repeated(relay, FLOOD_EVERY_S):
        yield


@contextmanager
def connections(made: Fleet) -> Iterator[None]:
    """A client holds more connections than the agent serves, and sends bodies that cost far more than their bytes."""
    address = ("127.0.0.1", made.device.port)

    def connect(_: int) -> None:
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(address, timeout=1.0))
        if len(held) > CONNECTIONS:
            held.pop(0).close()

    def send(_: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(
                f"http://127.0.0.1:{made.device.port}/v1/models/tiny/predict",
                content=ARRAYS,
                timeout=10.0,
                verify=NO_TLS,
            )

    held: list[socket.socket] = []
    with repeated(connect, FLOOD_EVERY_S / 10), repeated(send, BODY_EVERY_S):
        yield
    for connection in held:
        connection.close()


@contextmanager
def full_disk(made: Fleet) -> Iterator[None]:
    """The host's registry lies on a disk without a free block."""
    assert made.host is not None
    small = made.folder / f"small-{made.versions}"
    with mounted(small):
        made.host.stop()
        command = (*host_command(made.repo, made.broker.url), "--database", str(small / "fleet.db"))
        made.host = Forked(made.folder / "host.log", *command)
        fill(small)
        yield
        made.host.stop()
    made.start_host()


@pytest.mark.parametrize(
    "neighbour",
    [
        wants,
        connections,
        pytest.param(reports, marks=pytest.mark.nightly),
        pytest.param(relayed, marks=pytest.mark.nightly),
        pytest.param(full_disk, marks=[pytest.mark.nightly, needs_root]),
    ],
)
def test_a_neighbour_stops_nobody(neighbour: Neighbour, tmp_path: Path) -> None:
    """Rollouts arrive about as soon as without it; answers, and the invariants of the campaign, are as ever."""
    with fleet(tmp_path, devices=DEVICES) as made:
        enroll(made.repo, HOSTILE, made.broker.url, tmp_path / HOSTILE)
        rollout_s(made)
        before, beside_s, alone_s = memory_bytes(made), [], []
        while len(beside_s) < ROUNDS or (growth(beside_s, alone_s) > GROWTH_MAX and len(beside_s) < ROUNDS_MAX):
            if IS_NIGHTLY:
                alone_s.append(rollout_s(made))
            with neighbour(made):
                beside_s.append(rollout_s(made))
        grown = {name: held - before[name] for name, held in memory_bytes(made).items()}
    assert max(grown.values()) <= MEMORY_MAX_BYTES, grown
    campaign.count(f"rollouts beside {neighbour.__name__}", len(beside_s))
    if IS_NIGHTLY:
        print(json.dumps({"beside_s": beside_s, "alone_s": alone_s, "grown_bytes": grown}))
        assert growth(beside_s, alone_s) <= GROWTH_MAX


def growth(beside_s: list[float], alone_s: list[float]) -> float:
    """The ratio of the median times; 0 by day, when no rollout is alone."""
    return statistics.median(beside_s) / statistics.median(alone_s) if alone_s else 0.0


def rollout_s(made: Fleet) -> float:
    """Release a version and deploy it; the seconds until all devices answer with it."""
    version = made.release(weights_bytes=WEIGHTS_BYTES)
    began_s = time.monotonic()
    made.deploy(version)
    made.converges(version)
    return time.monotonic() - began_s


def memory_bytes(made: Fleet) -> dict[str, int]:
    """The resident memory of the agents; the host is another process after its disk was full."""
    return {
        device.name: int(Path(f"/proc/{device.agent.process.pid}/statm").read_text().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        for device in made.devices
        if device.agent is not None
    }

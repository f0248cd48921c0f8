"""The origin's loop, over a store in memory."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from edgeml_core import multi_chunk
from edgeml_core.errors import RejectedError, TransportError
from edgeml_origin.cohorts import AnnouncedRelease
from edgeml_origin.origin import Origin

DEVICES = frozenset({"pi-1", "pi-2"})
SMALL = {f"{number:032x}": b"%d" % number * 100 for number in range(5)}
LARGE = {f"{number:032x}": bytes([number]) * 5000 for number in range(5, 8)}
STORED = SMALL | LARGE
LOST = "f" * 32
UNREACHABLE = "d" * 32
#: Requested last: the origin publishes in order, so all that was due before is out when this is.
LAST, LAST_PAYLOAD = "e" * 32, bytes(5000)


class MemoryStore:
    """What is in `STORED`; `LOST` is listed, but lost, and `UNREACHABLE` can't be read now."""

    def wire(self, key: str) -> bytes:
        """See `Store.wire`."""
        if key == LAST:
            return LAST_PAYLOAD
        if key == UNREACHABLE:
            raise TransportError("chunks-unreachable", "the bucket gives no answer")
        if key not in STORED:
            raise RejectedError("digest-mismatch", f"{key} is lost")
        return STORED[key]


def answered(wants: list[tuple[str, list[str]]], *, max_bytes_per_s: float | None = None):
    """All that is published and positions for wants, until nothing more comes."""
    published: list[tuple[str, bytes]] = []
    positions: list[tuple[str, str]] = []

    async def publish(key: str, payload: bytes) -> None:
        published.append((key, payload))

    async def publish_position(release: str, chunk_id: str) -> None:
        positions.append((release, chunk_id))

    async def run() -> None:
        origin = Origin(MemoryStore(), max_bytes_per_s)
        listed = AnnouncedRelease(release="r" * 32, ids=frozenset({*STORED, LOST, UNREACHABLE, LAST}), devices=DEVICES)
        origin.scheduler.allow(releases=[listed], devices=DEVICES)
        for device, keys in wants:
            origin.want(device, keys)
        running = asyncio.create_task(origin.run(publish, publish_position))
        while origin.scheduler.wait_s(asyncio.get_running_loop().time()) is not None or not positions:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for device in DEVICES:
            origin.want(device, [LAST])
        while (LAST, LAST_PAYLOAD) not in published:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        published.remove((LAST, LAST_PAYLOAD))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    return published, positions


def both(keys):
    """Wants of both devices."""
    return [(device, list(keys)) for device in sorted(DEVICES)]


def test_small_answers_for_the_same_devices_are_joined():
    """On the topic of the first; larger ones go alone."""
    published, _ = answered(both(STORED))
    assert dict(published[:-1]) == LARGE
    topic, joined = published[-1]
    assert topic == next(iter(SMALL))
    assert multi_chunk.split(joined) == {multi_chunk.name(key): payload for key, payload in SMALL.items()}


def test_small_answers_for_different_devices_are_published_alone():
    """Who listens to one topic only hears it all the same."""
    first, second, *_ = SMALL
    published, _ = answered([("pi-1", [first]), ("pi-2", [first, second])])
    assert sorted(published) == [(key, SMALL[key]) for key in (first, second)]


def test_single_small_answer_is_published_unwrapped():
    """It would only be longer."""
    first, *_ = SMALL
    published, _ = answered(both([first]))
    assert published == [(first, SMALL[first])]


def test_missing_chunk_does_not_delay_the_others():
    """The others are answered."""
    published, _ = answered(both([LOST, *LARGE]))
    assert dict(published) == LARGE


def test_store_without_an_answer_delays_no_other_chunk(caplog: pytest.LogCaptureFixture):
    """It is logged once, not for each chunk: the devices ask again."""
    published, _ = answered([*both([UNREACHABLE, *LARGE]), ("pi-1", [UNREACHABLE])])
    assert dict(published) == LARGE
    assert [it.message.splitlines()[0] for it in caplog.records] == [
        "chunks can't be read, so devices wait: the bucket gives no answer"
    ]


def test_store_without_an_answer_holds_no_other_work_up():
    """It holds the origin's own threads, and leaves those that write reports to the database."""

    class HeldStore:
        def wire(self, key: str) -> bytes:
            """See `Store.wire`."""
            released.wait(60)
            return b"a chunk"

    async def publish(_topic: str, _payload: object) -> None:
        published.set()

    async def run() -> None:
        origin = Origin(HeldStore())
        keys = [f"{number:032x}" for number in range(64)]
        listed = AnnouncedRelease(release="r" * 32, ids=frozenset(keys), devices=DEVICES)
        origin.scheduler.allow(releases=[listed], devices=DEVICES)
        for device in DEVICES:
            origin.want(device, keys)
        running = asyncio.create_task(origin.run(publish, publish))
        try:
            await asyncio.sleep(0.5)
            await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(int) for _ in range(64))), 30)
            assert not published.is_set()
        finally:
            released.set()
        await asyncio.wait_for(published.wait(), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    released, published = threading.Event(), asyncio.Event()
    asyncio.run(run())


def test_position_of_the_release_is_published():
    """For those who come later."""
    _, positions = answered(both(LARGE))
    assert positions == [("r" * 32, list(LARGE)[-1])]


def test_rate_limit_spreads_publications():
    """15 KB at 30 KB a second take half a second."""
    begun_s = time.monotonic()
    published, _ = answered(both(LARGE), max_bytes_per_s=30_000)
    assert dict(published) == LARGE
    assert time.monotonic() - begun_s >= 0.45

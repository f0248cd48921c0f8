"""The update slot: exclusive between tasks and processes; background work gives way."""

import asyncio

import pytest

from edgeml_agent.store import locks
from edgeml_agent.update.slot import LOCK_RETRY_EVERY_S, UpdateSlot
from support.fakes import FakeClock


@pytest.fixture
def clock():
    """A clock that moves only when a task sleeps."""
    return FakeClock()


def test_hold_excludes_other_tasks(tmp_path, clock):
    """One after another, in the order in which they came."""
    slot, events = UpdateSlot(tmp_path, clock), []

    async def work(name):
        async with slot.hold():
            events.append(f"{name} begins")
            await asyncio.sleep(0)
            events.append(f"{name} ends")

    async def main():
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(main())
    assert events == ["a begins", "a ends", "b begins", "b ends"]
    assert clock.slept == []


def test_hold_waits_for_another_process(tmp_path, clock):
    """As `edgeml-agent install`, which holds the lock file; the slot looks again every second."""
    slot, lock = UpdateSlot(tmp_path, clock), locks.take(tmp_path / locks.UPDATE)

    async def main():
        async def install():
            while len(clock.slept) < 3:  # noqa: ASYNC110 - the fake clock has no event
                await asyncio.sleep(0)
            lock.close()

        installing = asyncio.create_task(install())
        async with slot.hold():
            assert locks.take(tmp_path / locks.UPDATE) is None
        await installing

    asyncio.run(main())
    assert set(clock.slept) == {LOCK_RETRY_EVERY_S}
    with locks.take(tmp_path / locks.UPDATE) as free:
        assert free is not None


def test_hold_cancels_background_work(tmp_path, clock):
    """An update must not wait for work of low priority."""
    slot, events = UpdateSlot(tmp_path, clock), []

    async def work():
        events.append("begins")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    async def main():
        background = asyncio.create_task(slot.run_in_background(work))
        while not events:  # noqa: ASYNC110 - set by the task
            await asyncio.sleep(0)
        async with slot.hold():
            await background
            await slot.run_in_background(work)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert events == ["begins", "cancelled"], "none begins while the slot is held"


def test_background_work_ends_with_its_caller(tmp_path, clock):
    """A stopping agent leaves no task behind."""
    slot, began, cancelled = UpdateSlot(tmp_path, clock), asyncio.Event(), asyncio.Event()

    async def work():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def main():
        background = asyncio.create_task(slot.run_in_background(work))
        await began.wait()
        background.cancel()
        await asyncio.wait([background])
        await cancelled.wait()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_defect_of_background_work_is_logged(tmp_path, clock, caplog):
    """It doesn't end the caller, which serves models."""
    slot = UpdateSlot(tmp_path, clock)

    async def work():
        raise ZeroDivisionError("a defect")

    asyncio.run(slot.run_in_background(work))
    assert "background work failed" in caplog.text

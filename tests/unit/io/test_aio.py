"""Waiting can always be cancelled, whatever comes at the same moment."""

import asyncio
import gc
import logging

import pytest

from edgeml_io.aio import run_to_end, within


@pytest.mark.parametrize("seconds", [10, None])
def test_within_with_a_cancellation_and_a_result_is_cancelled(seconds):
    """Else a loop that waits again and again would never end."""

    async def main():
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(within(answer, seconds))
        await asyncio.sleep(0)
        answer.set_result("late")
        waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    assert asyncio.run(main())


def test_within_returns_a_result_in_time_and_raises_after_it():
    """The result as it is."""

    async def main():
        assert await within(asyncio.sleep(0, "here"), 10) == "here"
        with pytest.raises(TimeoutError):
            await within(asyncio.Event().wait(), 0.01)

    asyncio.run(main())


@pytest.mark.parametrize("cancellations", [1, 2])
def test_run_to_end_finishes_before_it_is_cancelled(cancellations):
    """The caller gets its cancellation afterwards. A host that is stopped twice has its disk and memory in step."""
    done = []

    async def work():
        await asyncio.sleep(0.01)
        done.append(True)

    async def main():
        task = asyncio.create_task(run_to_end(work()))
        for _ in range(cancellations):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]

    asyncio.run(main())


def test_run_to_end_tells_an_error_behind_the_cancellation(caplog):
    """The caller is cancelled in any case. Asyncio told the error when the memory was freed, if at all."""

    async def work():
        await asyncio.sleep(0.01)
        raise OSError("the disk is full")

    async def main():
        task = asyncio.create_task(run_to_end(work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
        gc.collect()
    [record] = caplog.records
    assert (record.name, str(record.exc_info[1])) == ("edgeml_io.aio", "the disk is full")


def test_run_to_end_raises_the_error_of_its_work():
    """To a caller that isn't cancelled."""

    async def work():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(run_to_end(work()))

"""Waiting can always be cancelled, whatever comes at the same moment."""

import asyncio

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


def test_run_to_end_finishes_before_it_is_cancelled():
    """The caller gets its cancellation afterwards."""
    done = []

    async def work():
        await asyncio.sleep(0.01)
        done.append(True)

    async def main():
        task = asyncio.create_task(run_to_end(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]

    asyncio.run(main())

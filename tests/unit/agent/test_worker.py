"""A model's thread: what one request meets ends no other one."""

import asyncio
import time
from functools import partial
from types import SimpleNamespace

import pytest

from edgeml_agent.serve.calls import Stream
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.worker import NO_HOOKS, Worker
from edgeml_core.errors import DeviceError, TransportError
from edgeml_runtime.bench.batching import RunCost
from support.waiting import TIMEOUT_S, until_async


class Model:
    """A model that can't read a conversation."""

    threads = 1
    manifest = SimpleNamespace(name="broken", preprocess=None, postprocess=None)

    def read(self, _):
        """Fail, as a runtime without memory does."""
        raise DeviceError("runtime-failed", "no memory for a run")

    def close(self):
        """Free nothing."""


def test_work_goes_on_where_a_failed_request_cannot_be_closed():
    """Without memory for its run there may be none to move its cache, either."""

    def steps(_):
        try:
            yield SimpleNamespace(waits=False)
        finally:
            raise MemoryError

    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            worker = Worker(Model(), Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)
            with pytest.raises(DeviceError):
                await worker.submit(Stream(steps))
            assert await worker.submit(lambda model: model.threads) == 1
            assert not worker.pending
            await worker.close()

    asyncio.run(main())


def test_work_after_a_failed_run_lets_no_conversation_read_that_waits_for_memory():
    """It is the first one where it reads alone, so it would take its memory beyond the bound of all."""
    read, over = [], asyncio.Event()

    class Failing(Model):
        def read(self, conversations):
            """Fail where several conversations read."""
            if len(conversations) > 1:
                raise DeviceError("runtime-failed", "no memory for a run")
            read.extend(conversations)

    def steps(conversation):
        while not over.is_set():
            yield conversation
            time.sleep(0.001)

    async def main():
        first, waiting = SimpleNamespace(waits=False), SimpleNamespace(waits=True)
        async with asyncio.timeout(TIMEOUT_S):
            worker = Worker(Failing(), Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)
            answers = [worker.submit(Stream(partial(lambda it, _: steps(it), it))) for it in (first, waiting)]
            await until_async(lambda: len(read) > 10)
            over.set()
            await asyncio.gather(*answers)
            await worker.close()
        assert waiting not in read

    asyncio.run(main())


def test_submit_to_a_worker_that_was_closed_is_refused():
    """Its thread has ended: the client would wait for ever."""

    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            worker = Worker(Model(), Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)
            await worker.close()
            with pytest.raises(TransportError, match="no longer serves") as caught:
                worker.submit(lambda model: model.threads)
            assert caught.value.code == "deadline-exceeded"
            assert not worker.pending

    asyncio.run(main())

"""A model's thread: what one request meets ends no other one."""

import asyncio
from types import SimpleNamespace

import pytest

from edgeml_agent.serve.calls import Stream
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.worker import NO_HOOKS, Worker
from edgeml_core.errors import DeviceError
from edgeml_runtime.bench.batching import RunCost


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
            yield object()
        finally:
            raise MemoryError

    async def main():
        async with asyncio.timeout(10):
            worker = Worker(Model(), Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)
            with pytest.raises(DeviceError):
                await worker.submit(Stream(steps))
            assert await worker.submit(lambda model: model.threads) == 1
            assert not worker.pending
            await worker.close()

    asyncio.run(main())

"""The served models: a client that reads slowly, a swap while a text is written."""

import asyncio
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from tests.support.waiting import until_async

from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import NO_HOOKS, Worker
from edgeml_core.errors import TransportError
from edgeml_runtime.bench.batching import RunCost

#: Tokens of a text that no client waits for.
ENDLESS = 1_000_000


class Model:
    """A loaded model."""

    threads = 1

    def __init__(self, name, version="1"):
        self.manifest = SimpleNamespace(name=name, version=version, preprocess=None, postprocess=None)
        self.closed = False

    def close(self):
        """See `edgeml_runtime.model`."""
        self.closed = True


class Loading(Models):
    """Models whose bundles are loaded at once; `folder` is the model."""

    async def _load(self, _name, folder, _manifest):
        return Worker(folder, Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)


@asynccontextmanager
async def serving(*names):
    """Serve a version of each name."""
    models = Loading()
    async with asyncio.timeout(20):
        for name in names:
            await models.activate(name, Model(name), Model(name).manifest)
        yield models
        await models.close()


def counted(count, made):
    """A text of this many tokens, which are noted as they are made."""

    def write(_, emit):
        for number in range(count):
            made.append(number)
            emit(number)
            time.sleep(0.0002)
            yield

    return write


def test_stream_of_a_client_that_reads_nothing_ends_alone():
    """What it hasn't read is bounded, and the text of another client of the same model is complete."""

    async def main():
        async with serving("m") as models:
            made, other = [], []
            slow, served = models.stream("m", counted(ENDLESS, made)), models.find("m")
            assert await anext(slow) == 0
            whole = [piece async for piece in models.stream("m", counted(300, other))]
            await until_async(lambda: not served.queue_depth)
            assert len(made) < ENDLESS
            assert whole == list(range(300))
            with pytest.raises(TransportError) as caught:
                await anext(slow)
            assert caught.value.code == "client-left"
            assert models.counts.codes("m") == {"client-left": 1, "ok": 1}

    asyncio.run(main())

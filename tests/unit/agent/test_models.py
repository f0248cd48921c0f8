"""The served models: a client that reads slowly, a swap while a text is written."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from edgeml_agent.serve import worker
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import NO_HOOKS, Worker
from edgeml_core.errors import OverloadedError, TransportError
from edgeml_runtime.bench.batching import RunCost
from support.waiting import TIMEOUT_S, until_async

#: Tokens of a text that no client waits for.
ENDLESS = 1_000_000


class Model:
    """A loaded model."""

    threads = 1

    def __init__(self, name, version="1"):
        needs = SimpleNamespace(ram_bytes=1)
        self.manifest = SimpleNamespace(name=name, version=version, needs=needs, preprocess=None, postprocess=None)
        self.closed = False

    def close(self):
        """See `edgeml_runtime.model`."""
        self.closed = True


class Loading(Models):
    """Models whose bundles are loaded at once; `folder` is the model."""

    async def _load(self, _name, folder, _manifest):
        return Worker(folder, Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS)


@asynccontextmanager
async def serving(*names, memory_bytes=None):
    """Serve a version of each name. A loaded model takes one byte."""
    models = Loading(memory_bytes=memory_bytes)
    async with asyncio.timeout(TIMEOUT_S):
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


async def read(models, name, ends=lambda: False):
    """Read a text of a model until it ends; return the code of its error.

    A token takes so long that this client reads it in time while others use the computer.
    """

    def write(_, emit):
        while not ends():
            emit("token")
            time.sleep(0.01)
            yield

    try:
        async for _ in models.stream(name, write):
            pass
    except TransportError as error:
        return error.code
    return ""


def upgraded(models, name, version="2"):
    """A swap to another version."""
    return asyncio.create_task(models.activate(name, Model(name, version), Model(name, version).manifest))


def test_activate_beside_a_text_without_end_holds_up_no_other_model():
    """The new version answers at once. A swap, a load and a removal of another model wait for no text of the old one.

    Its own next version does: of one model there are never three.
    """

    async def main():
        async with serving("m", "n") as models:
            text = asyncio.create_task(read(models, "m"))
            await until_async(lambda: models.find("m").queue_depth)
            await upgraded(models, "m")
            assert await models.run("m", lambda model: model.manifest.version) == "2"
            await upgraded(models, "n")
            await models.unload("n")
            await models.load("n")
            await models.deactivate("n")
            await models.retired("n")
            third = upgraded(models, "m", "3")
            await asyncio.sleep(0.05)
            assert await models.run("m", lambda model: model.manifest.version) == "2"
            assert not text.done()
            text.cancel()
            await third
            assert await models.run("m", lambda model: model.manifest.version) == "3"

    asyncio.run(main())


def test_unload_amid_a_swap_unloads_the_new_version(monkeypatch):
    """It freed the old one, which ended anyway, and reported success."""

    async def main():
        async with serving("m") as models:
            go_on, load = asyncio.Event(), models._load

            async def slowly(*bundle):
                await go_on.wait()
                return await load(*bundle)

            monkeypatch.setattr(models, "_load", slowly)
            swap = upgraded(models, "m")
            await until_async(models._changing.locked)
            unloading = asyncio.create_task(models.unload("m"))
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(swap, unloading)
            served = models.find("m")
            assert served.manifest.version == "2"
            assert served.unloaded
            assert served.worker is None

    asyncio.run(main())


def test_deactivate_beside_a_text_without_end_returns_at_once():
    """The update that removes the model holds up those of other ones; the text goes on."""

    async def main():
        async with serving("m") as models:
            text = asyncio.create_task(read(models, "m"))
            await until_async(lambda: models.find("m").queue_depth)
            await models.deactivate("m")
            assert not models.active()
            assert not text.done()
            text.cancel()

    asyncio.run(main())


def test_activate_ends_what_the_old_version_writes_for_too_long(monkeypatch):
    """A chat without a limit would hold its memory, and the record of the swap, until its context is full."""
    monkeypatch.setattr(worker, "CLOSE_MAX_S", 1.0)
    is_replaced = threading.Event()

    async def main():
        async with serving("m") as models:
            old = models.find("m").worker
            texts = [asyncio.create_task(read(models, "m", ends)) for ends in (lambda: False, is_replaced.is_set)]
            await until_async(lambda: old.pending == len(texts))
            await upgraded(models, "m")
            is_replaced.set()
            await models.retired("m")
            assert old._model is None
            assert [await text for text in texts] == ["deadline-exceeded", ""]
            await until_async(lambda: not old.pending)

    asyncio.run(main())


def test_a_resting_model_waits_for_the_memory_of_a_version_that_still_writes():
    """It would be loaded beside two versions of another one. Its client gets the time to come back."""

    async def main():
        async with serving("n", "m", memory_bytes=1) as models:
            text = asyncio.create_task(read(models, "m"))
            await until_async(lambda: models.find("m").queue_depth)
            await upgraded(models, "m")
            with pytest.raises(OverloadedError):
                await models.load("n")
            text.cancel()
            await models.retired("m")
            await models.load("n")

    asyncio.run(main())

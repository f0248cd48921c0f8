"""A comparison of two versions: after its end the new version, whose thread has ended, gets no request."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.serve.calls import Predict
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.shadow import Shadow
from edgeml_agent.serve.worker import NO_HOOKS, Worker
from edgeml_core.errors import TransportError
from edgeml_runtime.bench.batching import RunCost
from support.waiting import TIMEOUT_S


class Model:
    """A model that answers once it may."""

    threads = 1
    manifest = SimpleNamespace(name="mood", version="1.0", preprocess=None, postprocess=None)

    def __init__(self):
        self.may_answer = threading.Event()

    def predict_runs(self, items, _):
        """Answer each item by itself."""
        assert self.may_answer.wait(TIMEOUT_S)
        yield list(items)

    def close(self):
        """Free nothing."""


@pytest.mark.parametrize("ends", ["cancelled", "by its time"])
def test_request_that_outlives_the_comparison_is_not_compared(ends):
    """Its future would never end. The request was under way when the operator took the new version back."""

    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            served = Model()
            active, new = (
                Worker(model, Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS) for model in (served, Model())
            )
            shadow = Shadow(new, served.manifest, ShadowPolicy(max_s=60.0 if ends == "cancelled" else 0.05))

            async def submit(worker, call):
                return await worker.submit(call)

            call = Predict(parse=lambda _: ["item"], write=lambda _, answers: answers)
            verdict = asyncio.create_task(shadow.verdict())
            answer = asyncio.create_task(shadow.answer(submit, call, active))
            await asyncio.sleep(0)
            if ends == "cancelled":
                verdict.cancel()
            await asyncio.gather(verdict, return_exceptions=True)
            await new.close()
            served.may_answer.set()
            assert await answer == ["item"]
            assert not new.pending
            await active.close()

    asyncio.run(main())


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "answers"])
def test_a_canary_of_a_served_version_that_was_replaced_ends(fails):
    """An operator's rollback came meanwhile: a failure is the client's, and an answer isn't compared."""

    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            new = Model()
            active, canary = (
                Worker(it, Cores(1), calibration=RunCost(1.0, 1), hooks=NO_HOOKS) for it in (Model(), new)
            )
            shadow = Shadow(canary, new.manifest, ShadowPolicy(canary=1.0))

            async def submit(worker, call):
                return await worker.submit(call)

            call = Predict(parse=(lambda _: 1 / 0) if fails else (lambda _: ["item"]), write=lambda _, answers: answers)
            answer = asyncio.create_task(shadow.answer(submit, call, active))
            await asyncio.sleep(0)
            await active.close()
            new.may_answer.set()
            if fails:
                with pytest.raises(TransportError, match="no longer serves"):
                    await answer
            else:
                assert await answer == ["item"]
            assert not active.pending
            await canary.close()

    asyncio.run(main())

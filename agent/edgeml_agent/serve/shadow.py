"""A new version beside the served one: it gets the same requests, and a policy decides by their agreement.

The served version answers the clients. The new one may answer a fraction of the requests (a canary); where it fails,
the served version answers. Either way the other version runs the request, too, and the two answers are compared. Under
load only some requests are compared, so that clients keep the host. `edgeml_runtime.verify.agreement` says what agrees.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from edgeml_agent import log
from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.serve.calls import Infer, Predict
from edgeml_agent.serve.worker import Worker
from edgeml_core.errors import DeviceError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared
from edgeml_core.processing import TensorOutput
from edgeml_runtime.verify import agreement

#: Seconds between two compared requests while requests wait; comparing costs a run.
LOADED_EVERY_S: Final = 0.5

T = TypeVar("T")
Comparable = Predict[Any] | Infer[Any]
#: Submits a call to a worker, and returns its answer.
Submit = Callable[[Worker, Callable[..., T]], Awaitable[T]]


class Shadow:
    """One comparison. Methods are called on the event loop that made it.

    Args:
        worker: the new version's.
        active: the manifest of the served version; its kind of answers is compared.
    """

    def __init__(self, worker: Worker, active: Manifest, rule: ShadowPolicy) -> None:
        self._worker = worker
        self._active = active
        self._rule = rule
        self._loop = asyncio.get_running_loop()
        self._decided = asyncio.Event()
        self._scales = agreement.Scales()
        self._turns = 0.0
        self._compared_at_s = 0.0
        self.agreed = 0
        self.differed = 0
        #: Requests that the new version failed at; they count as differing.
        self.failed = 0

    async def answer(self, submit: Submit[T], call: Predict[T] | Infer[T], active: Worker) -> T:
        """Answer a call by the served version, or by the new one as a canary; the other runs it afterwards."""
        self._turns += self._rule.canary
        if self._turns >= 1:
            self._turns -= 1
            try:
                return await self._compared(submit, call, self._worker, active)
            except Exception:  # noqa: BLE001 - any defect of the new version: the served one answers
                answer = await submit(active, call)  # where that fails, too, the request was at fault
                self._count_failure()
                return answer
        return await self._compared(submit, call, active, self._worker)

    async def verdict(self) -> Compared:
        """Return the comparison, as soon as the policy decides.

        Raises:
            DeviceError: `shadow-disagreed`.
        """
        try:
            async with asyncio.timeout(self._rule.max_s):
                await self._decided.wait()
        except TimeoutError:
            log.event("comparison ends by time", model=self._active.name, compared=self._count)
        finally:
            self._decided.set()  # requests under way are compared no more: the new version's thread ends
        found = Compared(against=self._active.version, compared=self._count, differed=self.differed, failed=self.failed)
        if self._is_too_different(of=max(1, self._count)):
            bad, share = self.differed + self.failed, self._rule.max_disagreement
            message = (
                f"{bad} of {self._count} answers differ from version {self._active.version}'s, {self.failed} of them "
                f"errors; {share:.0%} may"
            )
            hint = "check the changes; if they are intended, set [serve] shadow = false there, and deploy with --again"
            raise DeviceError("shadow-disagreed", message, hint)
        return found

    def outcomes(self) -> dict[str, int]:
        """How many answers agreed, differed and failed until now."""
        return {"agreed": self.agreed, "differed": self.differed, "failed": self.failed}

    @property
    def _count(self) -> int:
        return self.agreed + self.differed + self.failed

    def _is_too_different(self, *, of: int) -> bool:
        return self.differed + self.failed > self._rule.max_disagreement * of

    async def _compared(self, submit: Submit[T], call: Predict[T] | Infer[T], first: Worker, second: Worker) -> T:
        """Return the first worker's answer to the call; compare it with the second's."""
        made: list[Any] = []

        def write(model: Any, answers: Any) -> T:  # noqa: ANN401 - as the call's own
            made.append(answers)
            return call.write(model, answers)

        answer = await submit(first, replace(call, write=write))
        if self._has_room(first, second):
            other = second.submit(_bare(call))
            other.add_done_callback(partial(self._compare, type(call), made[-1], second))
        return answer

    def _has_room(self, first: Worker, second: Worker) -> bool:
        """Whether comparing delays no request; every `LOADED_EVERY_S` it may. One that was replaced has no room."""
        now_s = time.monotonic()
        has_room = not second.pending and not (first.pending and now_s - self._compared_at_s < LOADED_EVERY_S)
        self._compared_at_s = now_s if has_room else self._compared_at_s
        return has_room and not second.is_closing and not self._decided.is_set()

    def _compare(self, kind: type[Comparable], one: Any, second: Worker, other: asyncio.Future[Any]) -> None:  # noqa: ANN401
        if other.cancelled():
            return
        if other.exception() is not None:
            if second is self._worker:
                self._count_failure()
            return
        served, new = (one, other.result()) if second is self._worker else (other.result(), one)
        spec = self._active.postprocess
        if kind is Infer:
            same = agreement.outputs_agree(served, new, self._scales if isinstance(spec, TensorOutput) else None)
        else:
            same = agreement.agree(served, new, spec, self._scales)
        self.agreed += same
        self.differed += not same
        self._decide()

    def _count_failure(self) -> None:
        self.failed += 1
        self._decide()

    def _decide(self) -> None:
        """Decide when all have been compared, or too many differ for the rest to compensate."""
        if self._count >= self._rule.requests or self._is_too_different(of=self._rule.requests):
            self._decided.set()


def _bare(call: Comparable) -> Comparable:
    """The call without its writing: for answers that can be compared."""
    return replace(call, write=lambda _, answers: answers)

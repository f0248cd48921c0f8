"""A new version beside the one that serves: it gets the same requests, and a rule decides by whether they agree.

Who asks is answered by the version that serves. A share of the requests the new one may answer (a canary), and the old
one does where it fails; either way the other is asked, too, and the two are compared. Under load that is now and then:
comparing must not take the machine from those who ask. What agreement is, `edgeml_runtime.verify.agreement` knows.
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
from edgeml_agent.serve.worker import Infer, Predict, Worker
from edgeml_core.errors import DeviceError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared
from edgeml_runtime.verify import agreement

#: While requests wait, one is compared so often.
LOADED_EVERY_S: Final = 0.5

T = TypeVar("T")
Comparable = Predict[Any] | Infer[Any]
#: Has a worker answer a call.
Ask = Callable[[Worker, Callable[..., T]], Awaitable[T]]


class Shadow:
    """One comparison. Methods are called on the event loop that made it.

    Args:
        worker: the new version's.
        active: the manifest of the version that serves: its kind of answers is compared.
    """

    def __init__(self, worker: Worker, active: Manifest, rule: ShadowPolicy) -> None:
        self._worker = worker
        self._active = active
        self._rule = rule
        self._loop = asyncio.get_running_loop()
        self._decided = asyncio.Event()
        self._turns = 0.0
        self._compared_at_s = 0.0
        self.agreed = 0
        self.differed = 0
        #: What the new version failed at; they count as differing.
        self.failed = 0

    async def answer(self, ask: Ask[T], call: Predict[T] | Infer[T], active: Worker) -> T:
        """The answer to a call, by whoever's turn it is; the other is asked afterwards."""
        self._turns += self._rule.canary
        if self._turns >= 1:
            self._turns -= 1
            try:
                return await self._compared(ask, call, self._worker, active)
            except Exception:  # noqa: BLE001 - whatever is wrong with the new version, the old one answers
                answer = await ask(active, call)  # where that fails, too, the request was at fault
                self._count_failure()
                return answer
        return await self._compared(ask, call, active, self._worker)

    async def verdict(self) -> Compared:
        """What came of it, as soon as the rule decides.

        Raises:
            DeviceError: `shadow-disagreed`.
        """
        try:
            async with asyncio.timeout(self._rule.max_s):
                await self._decided.wait()
        except TimeoutError:
            log.event("comparison ends by time", model=self._active.name, compared=self._count)
        found = Compared(against=self._active.version, compared=self._count, differed=self.differed, failed=self.failed)
        if self._is_too_different(of=max(1, self._count)):
            bad, share = self.differed + self.failed, self._rule.max_disagreement
            message = (
                f"{bad} of {self._count} answers differ from version {self._active.version}'s, {self.failed} of them "
                f"errors; {share:.0%} may"
            )
            hint = "look at what changed; if it is meant, deploy it to devices with [serve] shadow = false"
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

    async def _compared(self, ask: Ask[T], call: Predict[T] | Infer[T], first: Worker, second: Worker) -> T:
        """What the first makes of the call; what the second does is compared with it."""
        made: list[Any] = []

        def write(model: Any, answers: Any) -> T:  # noqa: ANN401 - as the call's own
            made.append(answers)
            return call.write(model, answers)

        answer = await ask(first, replace(call, write=write))
        if self._has_room(first, second):
            other = second.submit(_bare(call))
            other.add_done_callback(partial(self._compare, type(call), made[-1], second))
        return answer

    def _has_room(self, first: Worker, second: Worker) -> bool:
        """Whether comparing keeps nobody waiting; now and then it may."""
        now_s = time.monotonic()
        has_room = not second.pending and not (first.pending and now_s - self._compared_at_s < LOADED_EVERY_S)
        self._compared_at_s = now_s if has_room else self._compared_at_s
        return has_room and not self._decided.is_set()

    def _compare(self, kind: type[Comparable], one: Any, second: Worker, other: asyncio.Future[Any]) -> None:  # noqa: ANN401
        if other.cancelled():
            return
        if other.exception() is not None:
            if second is self._worker:
                self._count_failure()
            return
        if kind is Infer:
            same = agreement.outputs_agree(one, other.result())
        else:
            same = agreement.agree(one, other.result(), self._active.postprocess)
        self.agreed += same
        self.differed += not same
        self._decide()

    def _count_failure(self) -> None:
        self.failed += 1
        self._decide()

    def _decide(self) -> None:
        """All have been compared, or so many differ that the rest could not make up for it."""
        if self._count >= self._rule.requests or self._is_too_different(of=self._rule.requests):
            self._decided.set()


def _bare(call: Comparable) -> Comparable:
    """A call for what can be compared, before it is written."""
    return replace(call, write=lambda _, answers: answers)

"""The update machine of one model: each move goes through the table and is on the disk before it counts.

How the steps are done is `agent`'s business, which state follows which is `edgeml_core.lifecycle`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from edgeml_agent.store.database import ModelRecord, Store
from edgeml_core import lifecycle
from edgeml_core.errors import EdgemlError, RejectedError, TransportError
from edgeml_core.lifecycle import Event, State

T = TypeVar("T")
#: An update stands still in these, and goes on by itself.
_WAITING: Final = frozenset({State.WAITING, State.DEFERRED})


class Machine:
    """Where the update of one model stands.

    Args:
        notice: called after each move.
    """

    def __init__(self, store: Store, name: str, notice: Callable[[ModelRecord], None]) -> None:
        self._store = store
        self._notice = notice
        self.record = store.record(name)

    async def begin(self, deployment: str, version: str) -> None:
        """Go for a deployment: newly wanted, tried again, or going on after an interruption."""
        if self.record.state in lifecycle.UNDER_WAY:
            event = Event.INTERRUPTED
        else:
            event = Event.RETRIED if self.record.state in _WAITING else Event.WANTED
        await self.advance(event, deployment=deployment, version=version, wanted="")

    async def interrupt(self) -> None:
        """Note that an update under way stops here; it goes on another time."""
        if self.record.state in lifecycle.UNDER_WAY:
            await self.advance(Event.INTERRUPTED)

    async def withdraw(self) -> None:
        """Note that an update that is under way, or waits, is wanted no longer."""
        event = Event.KEPT if self.record.active else Event.WITHDRAWN
        if event in lifecycle.TABLE[self.record.state]:
            await self.advance(event, deployment="", version="", wanted="")

    async def advance(self, event: Event, **changes: str) -> None:
        """Move on."""
        state = lifecycle.advance(self.record.state, event)
        given = {"code": "", "message": ""} | changes
        self.record = msgspec.structs.replace(self.record, state=state, **given)
        await finished(asyncio.to_thread(self._store.save, self.record))
        self._notice(self.record)

    async def activate(self, now: float) -> None:
        """Move to active: the wanted release serves, the one before is kept."""
        state = lifecycle.advance(self.record.state, Event.ACTIVATED)
        self.record = msgspec.structs.replace(self.record, state=state)
        await finished(asyncio.to_thread(self._store.activate, self.record, now))
        self.record = self._store.record(self.record.name)
        self._notice(self.record)

    async def fail(self, error: EdgemlError) -> None:
        """Note who must act. What the sender got wrong is never taken again."""
        match error:
            case RejectedError():
                event = Event.REFUSED
                if self.record.wanted:
                    self._store.refuse(self.record.wanted, error.code, error.message)
            case TransportError():
                event = Event.ROAD_FAILED
            case _:
                event = Event.DEVICE_FAILED
        await self.advance(event, code=error.code, message=error.message)


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` to its end, even when cancelled meanwhile: what is on the disk and what is in memory stay the same."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

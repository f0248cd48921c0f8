"""The state machine of one model's update: the database stores each transition before it takes effect.

`agent` performs the steps. `edgeml_core.lifecycle` has the table of transitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from edgeml_agent.store.database import ModelRecord, Store
from edgeml_core import lifecycle
from edgeml_core.errors import EdgemlError, RejectedError, TransportError
from edgeml_core.lifecycle import Event, State
from edgeml_io.aio import run_to_end

#: States in which an update pauses and later resumes by itself.
_PAUSED: Final = frozenset({State.WAITING, State.DEFERRED})

#: Codes that say nothing against a release's content: the release key may permit it again.
_REVOCABLE: Final = frozenset({"release-withdrawn"})


class StateMachine:
    """The state of one model's update.

    Args:
        on_change: called with the record after each transition.
    """

    def __init__(self, store: Store, name: str, on_change: Callable[[ModelRecord], None]) -> None:
        self._store = store
        self._on_change = on_change
        self.record = store.record(name)

    async def begin(self, deployment: str, version: str) -> None:
        """Start the update for a deployment: a new one, one to retry, or one to resume after an interruption.

        One that was resolved before keeps its release, whose chunks are on the disk: resolving may fail this time.
        """
        if self.record.state in lifecycle.UNDER_WAY:
            event = Event.INTERRUPTED
        else:
            event = Event.RETRIED if self.record.state in _PAUSED else Event.WANTED
        wanted = self.record.wanted if self.record.deployment == deployment else ""
        await self.advance(event, deployment=deployment, version=version, wanted=wanted)

    async def interrupt(self) -> None:
        """Stop an update that is under way, so that it can resume later."""
        if self.record.state in lifecycle.UNDER_WAY:
            await self.advance(Event.INTERRUPTED)

    async def abandon(self) -> None:
        """End an update that is under way or paused, because its deployment is gone."""
        event = Event.KEPT if self.record.active else Event.ABANDONED
        if event in lifecycle.TABLE[self.record.state]:
            await self.advance(event, deployment="", version="", wanted="")

    async def advance(self, event: Event, **changes: str) -> None:
        """Make the transition for `event` and set `changes` in the record."""
        state = lifecycle.advance(self.record.state, event)
        cleared = {"code": "", "message": ""}
        self.record = msgspec.structs.replace(self.record, state=state, **cleared | changes)
        await run_to_end(asyncio.to_thread(self._store.save, self.record))
        self._on_change(self.record)

    async def activate(self, now_s: float) -> None:
        """Advance by `ACTIVATED`; the same transaction makes the wanted release the active one.

        Args:
            now_s: time of the activation, in seconds since 1970.
        """
        state = lifecycle.advance(self.record.state, Event.ACTIVATED)
        self.record = msgspec.structs.replace(self.record, state=state)
        await run_to_end(asyncio.to_thread(self._store.activate, self.record, now_s))
        self.record = self._store.record(self.record.name)
        self._on_change(self.record)

    async def remove(self) -> None:
        """Advance by `REMOVED`; the same transaction takes the model's releases out of use."""
        state = lifecycle.advance(self.record.state, Event.REMOVED)
        self.record = msgspec.structs.replace(self.record, state=state)
        await run_to_end(asyncio.to_thread(self._store.remove, self.record))
        self.record = self._store.record(self.record.name)
        self._on_change(self.record)

    async def fail(self, error: EdgemlError) -> None:
        """Advance by the error's family. A rejected release isn't fetched again, but by another attempt."""
        match error:
            case RejectedError():
                event = Event.REFUSED
                is_resolved = self.record.wanted and self.record.state is not State.RESOLVING
                if is_resolved and error.code not in _REVOCABLE:
                    self._store.refuse(self.record.wanted, error.code, error.message)
            case TransportError():
                event = Event.TRANSPORT_FAILED
            case _:
                event = Event.DEVICE_FAILED
        await self.advance(event, code=error.code, message=error.message)

"""Calls from an operator: check or bench a bundle that this device holds, beside what serves, and reply.

One at a time, at low priority, in the prober's child process. A call can't bring anything that would run: it names a
release by its digest, and only releases whose folder is whole, so verified, are looked up. How calls come is `link`'s
business.
"""

from __future__ import annotations

import asyncio

from edgeml_agent import log
from edgeml_agent.ports import CallLine, Prober
from edgeml_agent.store.releases import Release, Releases
from edgeml_core import messages
from edgeml_core.calls import Call, Refused, Reply
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError


class Calls:
    """All calls to one device."""

    def __init__(self, line: CallLine, releases: Releases, prober: Prober) -> None:
        self._line = line
        self._releases = releases
        self._prober = prober

    async def run(self) -> None:
        """Answer calls until cancelled."""
        answering: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                call = self._read(await self._line.called())
                if call is None:
                    continue
                if answering is None or answering.done():
                    answering = tasks.create_task(self._answer(call))
                else:
                    busy = DeviceError("device-busy", "the device answers another call", "call again in a minute")
                    self._line.reply(Reply(id=call.id, refused=Refused.of(busy)))

    def _read(self, payload: bytes) -> Call | None:
        """The call in a payload; None when it is malformed, or was meant for a connection that is no more."""
        try:
            call = messages.decode(payload, Call)
        except RejectedError as error:
            log.failure("call not understood", error)
            return None
        return call if call.session == self._line.session else None

    async def _answer(self, call: Call) -> None:
        log.event("called", kind=call.kind, release=call.manifest_sha256)
        try:
            reply = await self._found(call)
        except EdgemlError as error:
            log.failure("call refused", error)
            reply = Reply(id=call.id, refused=Refused.of(error))
        except Exception as error:  # noqa: BLE001 - a defect in a call must not end the agent that serves
            log.defect("call failed", error)
            defect = DeviceError("internal", f"the agent failed: {error}", "its log has the details")
            reply = Reply(id=call.id, refused=Refused.of(defect))
        self._line.reply(reply)

    async def _found(self, call: Call) -> Reply:
        release = await asyncio.to_thread(self._held, call.manifest_sha256)
        self._prober.admit(release.manifest)
        return await self._prober.answer(self._releases.folder(release.digest), release.manifest, call)

    def _held(self, digest: str) -> Release:
        if not self._releases.folder(digest).is_dir():
            hint = "deploy it to the device first, or name the bundle that it runs"
            raise DeviceError("release-absent", f"the device doesn't hold release {digest[:12]}", hint)
        return self._releases.read(digest)

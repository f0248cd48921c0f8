"""Calls from an operator: verify or benchmark a bundle of this device, beside the serving models, and reply.

Calls run one at a time, at low priority, in the prober's child process. A call brings no code: it names a release by
its digest, and only whole, so verified, releases are looked up. `link` receives calls and sends replies.
"""

from __future__ import annotations

import asyncio

from edgeml_agent import log
from edgeml_agent.ports import CallChannel, Prober
from edgeml_agent.store.releases import Release, Releases
from edgeml_core import messages
from edgeml_core.calls import Call, Refused, Reply
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError


class Calls:
    """All calls to one device."""

    def __init__(self, channel: CallChannel, releases: Releases, prober: Prober) -> None:
        self._channel = channel
        self._releases = releases
        self._prober = prober

    async def run(self) -> None:
        """Answer calls until cancelled."""
        answering: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                call = self._read(await self._channel.called())
                if call is None:
                    continue
                if answering is None or answering.done():
                    answering = tasks.create_task(self._answer(call))
                else:
                    busy = DeviceError("device-busy", "the device answers another call", "repeat the call in a minute")
                    self._channel.reply(Reply(id=call.id, refused=Refused.of(busy)))

    def _read(self, payload: bytes) -> Call | None:
        """Return the call in a payload; None if it is malformed, or meant for an earlier connection."""
        try:
            call = messages.decode(payload, Call)
        except RejectedError as error:
            log.failure("call malformed", error)
            return None
        return call if call.session == self._channel.session else None

    async def _answer(self, call: Call) -> None:
        log.event("called", kind=call.kind, release=call.manifest_sha256)
        try:
            reply = await self._run_call(call)
        except EdgemlError as error:
            log.failure("call refused", error)
            reply = Reply(id=call.id, refused=Refused.of(error))
        except Exception as error:  # noqa: BLE001 - a defect in a call must not end the agent that serves
            log.defect("call failed", error)
            defect = DeviceError("internal", f"the agent failed: {error}", "read the agent's log for the traceback")
            reply = Reply(id=call.id, refused=Refused.of(defect))
        self._channel.reply(reply)

    async def _run_call(self, call: Call) -> Reply:
        release = await asyncio.to_thread(self._read_release, call.manifest_sha256)
        self._prober.admit(release.manifest)
        return await self._prober.answer(self._releases.folder(release.digest), release.manifest, call)

    def _read_release(self, digest: str) -> Release:
        if not self._releases.folder(digest).is_dir():
            hint = "deploy the bundle to the device first, or name one that it serves"
            raise DeviceError("release-absent", f"the device doesn't have release {digest[:12]}", hint)
        return self._releases.read(digest)

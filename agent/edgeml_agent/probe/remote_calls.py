"""Calls from an operator: run a bundle of this device, check the device, return the newest log lines, or restart.

Bundles run one at a time, at low priority, in the prober's child process, beside the serving models. A call brings no
code: it names a release by its digest, and only whole, so verified, releases are looked up. `link` receives calls and
sends replies. How the device is checked and the agent restarted is left to `main`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from edgeml_agent import log
from edgeml_agent.ports import CallChannel, Prober
from edgeml_agent.store.releases import Release, Releases
from edgeml_core import messages
from edgeml_core.calls import LOG_MAX_BYTES, Call, Check, Refused, Reply
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError

#: Seconds from the agent's start until a call may restart it: a thief of the broker can't keep its models from serving.
RESTART_EVERY_S: Final = 600.0
#: Seconds for the reply to leave before the agent ends.
REPLY_LEAVES_S: Final = 2.0


class Calls:
    """All calls to one device.

    Args:
        channel: receives calls and sends replies.
        releases: the releases on the disk.
        prober: runs bundles.
        doctor: checks the device; blocks.
        restart: ends the agent in order, and starts it again.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        channel: CallChannel,
        releases: Releases,
        prober: Prober,
        *,
        doctor: Callable[[], tuple[Check, ...]],
        restart: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._releases = releases
        self._prober = prober
        self._doctor = doctor
        self._restart = restart
        self._clock = clock
        self._started_s = clock()

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
        if call.kind == "restart" and reply.refused is None:
            await asyncio.sleep(REPLY_LEAVES_S)
            self._restart()

    async def _run_call(self, call: Call) -> Reply:
        match call.kind:
            case "logs":
                return Reply(id=call.id, log=log.newest(call.lines, LOG_MAX_BYTES))
            case "doctor":
                return Reply(id=call.id, checks=await asyncio.to_thread(self._doctor))
            case "restart":
                self._check_uptime()
                return Reply(id=call.id)
            case "verify" | "bench":
                return await self._run_bundle(call)

    def _check_uptime(self) -> None:
        uptime_s = self._clock() - self._started_s
        if uptime_s < RESTART_EVERY_S:
            message = f"the agent has run for {uptime_s:.0f} s; a call restarts it after {RESTART_EVERY_S:.0f} s"
            raise DeviceError("device-busy", message, "repeat the call later, or restart the agent on the device")

    async def _run_bundle(self, call: Call) -> Reply:
        release = await asyncio.to_thread(self._read_release, call.manifest_sha256)
        self._prober.admit(release.manifest)
        return await self._prober.answer(self._releases.folder(release.digest), release.manifest, call)

    def _read_release(self, digest: str) -> Release:
        if not self._releases.folder(digest).is_dir():
            hint = "deploy the bundle to the device first, or name one that it serves"
            raise DeviceError("release-absent", f"the device doesn't have release {digest[:12]}", hint)
        return self._releases.read(digest)

"""Call devices over the broker, and wait for their replies.

A call brings no code (`edgeml_core.calls`): a device runs a bundle that it holds already. `ask` sends one call over a
connection of its own beside that of `serve`, a `CallConnection` several over one. Where the broker takes client ids
from user names, each such connection needs a user of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

from edgeml.fleet.link import Broker, session, transport_error
from edgeml_core import calls, messages
from edgeml_core.calls import Call, Kind, Reply, Timing
from edgeml_core.errors import TransportError, UsageError
from edgeml_core.messages import DeviceState, Topics
from edgeml_io.mqtt import Connection, Message, MqttError

#: Seconds for the device's retained state, which the broker sends at each subscription, and subscriptions for it:
#: the broker may be about to read the rights of a user whose certificate is new.
STATE_WAIT_S: Final = 1.0
STATE_TRIES: Final = 5
#: Seconds beyond the time in which the device itself ends a call: for both ways through the broker.
GRACE_S: Final = 15.0
#: Seconds for a call and its reply.
WAIT_S: Final = calls.TIMEOUT_S + GRACE_S


@dataclass(frozen=True, kw_only=True)
class DeviceConnection:
    """How to reach the devices of a fleet."""

    broker: Broker
    fleet: str


def new(
    kind: Kind,
    *,
    manifest_sha256: str = "",
    timing: Timing = Timing(),  # noqa: B008 - frozen
    lines: int = calls.LINES,
) -> Call:
    """Make a call; sending it sets its session.

    Args:
        kind: the kind of call.
        manifest_sha256: names the bundle of a verification or benchmark.
        timing: for a benchmark.
        lines: number of log lines.
    """
    return Call(
        id=secrets.token_hex(16), session=1, kind=kind, manifest_sha256=manifest_sha256, timing=timing, lines=lines
    )


def ask(to: DeviceConnection, device: str, call: Call, *, wait_s: float = WAIT_S) -> Reply:
    """Call a device, and return its reply; arguments and errors are those of `CallConnection.ask`."""
    return asyncio.run(CallConnection().ask(to, device, call, wait_s=wait_s))


class CallConnection:
    """One connection for the calls of a program that are under way at a time; it lasts as long as one is."""

    def __init__(self) -> None:
        self._shared: _Shared | None = None

    async def ask(self, to: DeviceConnection, device: str, call: Call, *, wait_s: float = WAIT_S) -> Reply:
        """Call a device, and return its reply; the reply may hold an error.

        Args:
            to: how to reach the device; not used while a connection is open.
            device: its id.
            call: made by `new`.
            wait_s: seconds for all of it.

        Raises:
            UsageError: `device-unknown`. RejectedError: `document-format`, when the reply is malformed.
            TransportError: `broker-unreachable`, `broker-refused`, `device-offline` or `call-timeout`.
        """
        if self._shared is None or self._shared.serving.done():
            self._shared = _Shared(to)
        shared, inbox = self._shared, _Inbox(device, Topics(to.fleet))
        shared.inboxes.add(inbox)
        talking = asyncio.create_task(_talk(shared, inbox, call))
        talking.add_done_callback(_forget)
        try:
            await asyncio.wait({talking, shared.serving}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                return talking.result()
            if shared.serving.done():
                shared.serving.result()
        except MqttError as error:
            raise transport_error(to.broker.url, error) from error
        finally:
            shared.inboxes.discard(inbox)
            talking.cancel()
            if not shared.inboxes:
                self._shared = None if self._shared is shared else self._shared
                shared.serving.cancel()
        hint = "read its log; where the broker has rights by topic, grant device/ID/call and device/ID/reply"
        raise TransportError("call-timeout", f"{device} gave no reply within {wait_s:.0f} s", hint)


class _Inbox(asyncio.Queue[Message]):
    """The messages of one device that came since a call began."""

    def __init__(self, device: str, topics: Topics) -> None:
        super().__init__()
        self.device = device
        self.state, self.call, self.reply = topics.state(device), topics.call(device), topics.reply(device)


class _Shared:
    """A connection, and the calls that read from it."""

    def __init__(self, to: DeviceConnection) -> None:
        self.inboxes: set[_Inbox] = set()
        self.opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.serving = asyncio.create_task(self._serve(to.broker))
        self.serving.add_done_callback(_forget)

    async def _serve(self, broker: Broker) -> NoReturn:
        async with session(broker, f"edgeml-call-{secrets.token_hex(8)}", is_lasting=False).connected() as connection:
            self.opened.set_result(connection)
            async for message in connection:
                for inbox in self.inboxes:
                    if message.topic in (inbox.state, inbox.reply):
                        inbox.put_nowait(message)
        raise AssertionError("messages never end by themselves")


def _forget(task: asyncio.Task[Any]) -> None:
    """Take note of a task's error: it may end after the call, which doesn't wait for a broker that is away."""
    if not task.cancelled():
        task.exception()


async def _talk(shared: _Shared, inbox: _Inbox, call: Call) -> Reply:
    """Send the call to the device's present connection."""
    connection = await asyncio.shield(shared.opened)
    sent = msgspec.structs.replace(call, session=await _session_number(connection, inbox))
    await connection.publish(inbox.call, messages.encode(sent), qos=1)
    return await _reply(inbox, sent)


async def _session_number(connection: Connection, inbox: _Inbox) -> int:
    """The number of the device's connection, from its retained state."""
    for _ in range(STATE_TRIES):
        await connection.subscribe([(inbox.state, 1), (inbox.reply, 1)])
        with suppress(TimeoutError):
            async with asyncio.timeout(STATE_WAIT_S):
                state = messages.decode(await _state_payload(inbox), DeviceState)
            if not state.online:
                raise _offline(inbox.device, "is offline")
            return state.session
    message = f"the broker knows no device {inbox.device!r}: nothing is retained at {inbox.state}"
    hint = "see `edgeml fleet devices`; name its fleet with --fleet; grant the broker's user rights to its state"
    raise UsageError("device-unknown", message, hint)


async def _state_payload(inbox: _Inbox) -> bytes:
    while True:
        message = await inbox.get()
        if message.topic == inbox.state and message.payload:
            return message.payload


async def _reply(inbox: _Inbox, call: Call) -> Reply:
    """Wait for the reply. A device that disconnects meanwhile, or connects again, will send none."""
    while True:
        message = await inbox.get()
        if message.topic == inbox.reply:
            reply = messages.decode(message.payload, Reply)
            if reply.id == call.id:
                return reply
            continue
        state = messages.decode(message.payload, DeviceState)
        if state.session > call.session or (state.session == call.session and not state.online):
            raise _offline(inbox.device, "disconnected before it replied")


def _offline(device: str, problem: str) -> TransportError:
    hint = "check its power, its network and its agent's log; `edgeml fleet devices` shows when it was last seen"
    return TransportError("device-offline", f"{device} {problem}", hint)

"""Call one device over the broker, and wait for its reply.

A call brings no code (`edgeml_core.calls`): a device runs a bundle that it holds already. Each call has a connection
of its own beside that of `serve`. Where the broker takes client ids from user names, it needs a user of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec

from edgeml.fleet.link import Broker, session, transport_error
from edgeml_core import calls, messages
from edgeml_core.calls import Call, Kind, Reply, Timing
from edgeml_core.errors import TransportError, UsageError
from edgeml_core.messages import DeviceState, Topics
from edgeml_io.mqtt import Connection, MqttError

#: Seconds for the device's retained state, which the broker sends at the subscription.
STATE_WAIT_S: Final = 5.0
#: Seconds beyond the time in which the device itself ends a call: for both ways through the broker.
GRACE_S: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class DeviceConnection:
    """How to reach the devices of a fleet."""

    broker: Broker
    fleet: str


def ask(
    connection: DeviceConnection,
    device: str,
    *,
    kind: Kind,
    manifest_sha256: str = "",
    timing: Timing = Timing(),  # noqa: B008 - frozen
    lines: int = calls.LINES,
) -> Reply:
    """Call a device, and return its reply; the reply may hold an error.

    Args:
        connection: how to reach the device.
        device: its id.
        kind: the kind of call.
        manifest_sha256: names the bundle of a verification or benchmark.
        timing: for a benchmark.
        lines: number of log lines.

    Raises:
        UsageError: `device-unknown`. RejectedError: `document-format`, when the reply is malformed.
        TransportError: `broker-unreachable`, `broker-refused`, `device-offline` or `call-timeout`.
    """
    call = Call(
        id=secrets.token_hex(16), session=1, kind=kind, manifest_sha256=manifest_sha256, timing=timing, lines=lines
    )
    try:
        return asyncio.run(_ask(connection, device, call))
    except MqttError as error:
        raise transport_error(connection.broker.url, error) from error


async def _ask(to: DeviceConnection, device: str, call: Call) -> Reply:
    """Send the call to the device's present connection."""
    topics = Topics(to.fleet)
    broker = session(to.broker, f"edgeml-call-{secrets.token_hex(8)}", is_lasting=False)
    async with broker.connected() as connection:
        await connection.subscribe([(topics.state(device), 1), (topics.reply(device), 1)])
        number = await _session_number(connection, device, topics)
        sent = msgspec.structs.replace(call, session=number)
        await connection.publish(topics.call(device), messages.encode(sent), qos=1)
        try:
            async with asyncio.timeout(calls.TIMEOUT_S + GRACE_S):
                return await _reply(connection, device, sent)
        except TimeoutError as error:
            hint = "read its log; where the broker has rights by topic, grant device/ID/call and device/ID/reply"
            raise TransportError("call-timeout", f"{device} gave no reply", hint) from error


async def _session_number(connection: Connection, device: str, topics: Topics) -> int:
    """The number of the device's connection, from its retained state."""
    try:
        async with asyncio.timeout(STATE_WAIT_S):
            state = messages.decode(await _payload(connection, topics.state(device)), DeviceState)
    except TimeoutError as error:
        message = f"the broker knows no device {device!r} in fleet {topics.root.rpartition('/')[2]!r}"
        hint = "see `edgeml fleet devices`; name its fleet with --fleet; grant the broker's user rights to its state"
        raise UsageError("device-unknown", message, hint) from error
    if not state.online:
        raise _offline(device, "is offline")
    return state.session


async def _payload(connection: Connection, topic: str) -> bytes:
    async for message in connection:
        if message.topic == topic and message.payload:
            return message.payload
    raise AssertionError("messages never end by themselves")


async def _reply(connection: Connection, device: str, call: Call) -> Reply:
    """Wait for the reply. A device that disconnects meanwhile, or connects again, will send none."""
    async for message in connection:
        if message.topic.endswith("/reply"):
            reply = messages.decode(message.payload, Reply)
            if reply.id == call.id:
                return reply
            continue
        state = messages.decode(message.payload, DeviceState)
        if state.session > call.session or (state.session == call.session and not state.online):
            raise _offline(device, "disconnected before it replied")
    raise AssertionError("messages never end by themselves")


def _offline(device: str, problem: str) -> TransportError:
    hint = "check its power, its network and its agent's log; `edgeml fleet devices` shows when it was last seen"
    return TransportError("device-offline", f"{device} {problem}", hint)

"""One device called over the broker: what is asked goes to it, its reply comes back.

The device runs what it holds already (`edgeml_core.calls`); nothing is sent to it but the question. One connection a
call, beside that of `serve`: where the broker takes client ids from user names, it needs a user of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec
from aiomqtt import Client, MqttError

from edgeml.fleet import link
from edgeml.fleet.link import Broker
from edgeml_core import calls, messages
from edgeml_core.calls import Call, Kind, Reply, Timing
from edgeml_core.errors import TransportError, UsageError
from edgeml_core.messages import DeviceState, Topics

#: A retained state comes with the subscription.
STATE_WAIT_S: Final = 5.0
#: The device itself ends a call in time; this is for the way there and back.
GRACE_S: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class DeviceConnection:
    """The way to the devices of a fleet."""

    broker: Broker
    fleet: str


def ask(line: DeviceConnection, device: str, *, kind: Kind, manifest_sha256: str, timing: Timing) -> Reply:
    """What a device replies; an error may stand in the reply.

    Args:
        line: the way to it.
        device: its id.
        kind: what is asked.
        manifest_sha256: names the bundle.
        timing: for a bench.

    Raises:
        UsageError: `device-unknown`. RejectedError: `document-format`, when the reply is malformed.
        TransportError: `broker-unreachable`, `device-offline` or `call-timeout`.
    """
    call = Call(id=secrets.token_hex(16), session=1, kind=kind, manifest_sha256=manifest_sha256, timing=timing)
    try:
        return asyncio.run(_ask(line, device, call))
    except MqttError as error:
        hint = "start the broker, and check --broker, its user and its certificates"
        raise TransportError("broker-unreachable", f"{line.broker.url}: {error}", hint) from error


async def _ask(line: DeviceConnection, device: str, call: Call) -> Reply:
    """Send the call to the device's connection as it is now."""
    topics = Topics(line.fleet)
    async with link.connected(line.broker, f"edgeml-call-{secrets.token_hex(8)}", lasting=False) as client:
        await client.subscribe([(topics.state(device), 1), (topics.reply(device), 1)])
        session = await _session(client, device, topics)
        sent = msgspec.structs.replace(call, session=session)
        await client.publish(topics.call(device), messages.encode(sent), qos=1)
        try:
            async with asyncio.timeout(calls.TIMEOUT_S + GRACE_S):
                return await _reply(client, device, sent)
        except TimeoutError as error:
            hint = "look at its log; where the broker has rights by topic, device/ID/call and device/ID/reply need some"
            raise TransportError("call-timeout", f"{device} gave no reply", hint) from error


async def _session(client: Client, device: str, topics: Topics) -> int:
    """The session of the device's connection, by its retained state."""
    try:
        async with asyncio.timeout(STATE_WAIT_S):
            state = messages.decode(await _payload(client, topics.state(device)), DeviceState)
    except TimeoutError as error:
        message = f"the broker knows no device {device!r} in fleet {topics.root.rpartition('/')[2]!r}"
        hint = "see `edgeml fleet devices`; name its fleet with --fleet; the broker's user needs rights to its state"
        raise UsageError("device-unknown", message, hint) from error
    if not state.online:
        raise _offline(device, "is offline")
    return state.session


async def _payload(client: Client, topic: str) -> bytes:
    async for message in client.messages:
        if str(message.topic) == topic and isinstance(message.payload, bytes) and message.payload:
            return message.payload
    raise AssertionError("messages never end by themselves")


async def _reply(client: Client, device: str, call: Call) -> Reply:
    """The reply to the call; a device that goes away meanwhile, or has come anew, will give none."""
    async for message in client.messages:
        payload = message.payload
        if not isinstance(payload, bytes):
            continue
        if str(message.topic).endswith("/reply"):
            reply = messages.decode(payload, Reply)
            if reply.id == call.id:
                return reply
            continue
        state = messages.decode(payload, DeviceState)
        if state.session > call.session or (state.session == call.session and not state.online):
            raise _offline(device, "went away before it replied")
    raise AssertionError("messages never end by themselves")


def _offline(device: str, what: str) -> TransportError:
    hint = "look at its power, its network and its agent's log; `edgeml fleet devices` says when it was seen last"
    return TransportError("device-offline", f"{device} {what}", hint)

"""Check that the broker lets this device publish and subscribe where it must.

Brokers confirm a SUBSCRIBE that their ACL forbids, and then deliver nothing. So each right is tried with an echo: the
device publishes an empty payload on a topic that it may write and read. All other parts ignore empty payloads. Where a
device may only read a whole tree, the topic is `TREE/echo/DEVICE`, which every device may write for itself. Source of
the rights: `docker/mosquitto/acl`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Connection, Message

#: Seconds for all echoes: an echo takes one round trip, which is below a second on mobile networks.
ECHO_WAIT_S: Final = 5.0


class AclCheck:
    """The rights that one device needs.

    Args:
        topics: the topics of its fleet.
        device: its id.
        requests: whether it answers requests to its models over MQTT.
    """

    def __init__(self, topics: Topics, device: str, *, requests: bool = False) -> None:
        self._needed = {
            topics.want(device),
            topics.state(device),
            topics.report(device),
            topics.reply(device),
            topics.chunk(f"echo/{device}"),
            topics.trust("echo", device),
        }
        if requests:
            infer = topics.infer(device, "echo", device)
            self._needed |= {infer, topics.answer(device, "echo"), topics.client("echo", device)}
        self._missing: set[str] = set()
        self._is_complete = asyncio.Event()

    def is_echo(self, message: Message) -> bool:
        """Return whether a message is an echo; all others belong to other parts."""
        return not message.payload and message.topic in self._needed

    def on_echo(self, message: Message) -> None:
        """Count an echo."""
        self._missing.discard(message.topic)
        if not self._missing:
            self._is_complete.set()

    async def run(self, connection: Connection) -> None:
        """Try every right; another task passes the received echoes to `on_echo` meanwhile.

        Raises:
            TransportError: `topic-forbidden`, with the topics that had no echo.
            MqttError: the connection is lost.
        """
        self._missing = set(self._needed)
        self._is_complete.clear()
        topics = sorted(self._needed)
        await connection.subscribe([(topic, 0) for topic in topics])
        for topic in topics:
            await connection.publish(topic, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ECHO_WAIT_S):
                await self._is_complete.wait()
        await connection.unsubscribe(topics)
        if self._missing:
            hint = "give this device the rights that docker/mosquitto/acl lists, under the user name that is its id"
            message = f"the broker doesn't deliver this device's messages on {', '.join(sorted(self._missing))}"
            raise TransportError("topic-forbidden", message, hint)

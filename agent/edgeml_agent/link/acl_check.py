"""Whether the broker lets this device say and hear what it must: brokers grant every SUBSCRIBE, and then stay silent.

So each right is tried by an echo: the device says nothing, an empty payload that all others pass over, on a topic that
it may write and read. Where whole trees are only read, the topic is `TREE/echo/DEVICE`, which every device may write
for itself. Source of the rights: `docker/mosquitto/acl`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from aiomqtt import Client

from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics

#: An echo takes one way to the broker and back.
ECHO_WAIT_S: Final = 5.0


class Rights:
    """The rights of one device.

    Args:
        requests: whether it hears requests to its models, and answers.
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
            self._needed |= {topics.infer(device, "echo"), topics.answer(device, "echo"), topics.client("echo", device)}
        self._silent: set[str] = set()
        self._all_heard = asyncio.Event()

    def on_message(self, topic: str, payload: bytes) -> bool:
        """Take in what came; whether it was an echo."""
        if topic not in self._needed or payload:
            return False
        self._silent.discard(topic)
        if not self._silent:
            self._all_heard.set()
        return True

    async def check(self, client: Client) -> None:
        """Try every right, while someone else lets us `on_message` what comes.

        Raises:
            TransportError: `topic-forbidden`, naming the topics without an echo.
        """
        self._silent = set(self._needed)
        self._all_heard.clear()
        topics = sorted(self._needed)
        await client.subscribe([(topic, 0) for topic in topics])
        for topic in topics:
            await client.publish(topic, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ECHO_WAIT_S):
                await self._all_heard.wait()
        await client.unsubscribe(topics)
        if self._silent:
            hint = "give this device the rights that docker/mosquitto/acl lists, under the user name that is its id"
            message = f"the broker doesn't pass on what this device says on {', '.join(sorted(self._silent))}"
            raise TransportError("topic-forbidden", message, hint)

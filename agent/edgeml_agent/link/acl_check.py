"""Check that the broker lets this device publish and subscribe where it must.

Each right is tried with an echo (`edgeml_io.echo_check`). Where a device may only read a whole tree, the topic is
`TREE/echo/DEVICE`, which every device may write for itself. `edgeml fleet broker-config` writes these rights.
"""

from __future__ import annotations

from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io.echo_check import EchoCheck
from edgeml_io.mqtt import Connection, Message


class AclCheck:
    """The rights that one device needs.

    Args:
        topics: the topics of its fleet.
        device: its id.
        requests: whether it answers requests to its models over MQTT.
    """

    def __init__(self, topics: Topics, device: str, *, requests: bool = False) -> None:
        needed = {
            topics.want(device),
            topics.state(device),
            topics.report(device),
            topics.reply(device),
            topics.chunk(f"echo/{device}"),
            topics.trust("echo", device),
        }
        if requests:
            needed |= {
                topics.infer(device, "echo", device),
                topics.answer(device, "echo"),
                topics.client("echo", device),
            }
        self._echoes = EchoCheck(needed)

    def is_echo(self, message: Message) -> bool:
        """Return whether a message is an echo; all others belong to other parts."""
        return self._echoes.is_echo(message)

    def on_echo(self, message: Message) -> None:
        """Count an echo."""
        self._echoes.on_echo(message)

    async def run(self, connection: Connection) -> None:
        """Try every right; another task passes the received echoes to `on_echo` meanwhile.

        Raises:
            TransportError: `topic-forbidden`, with the topics that had no echo.
            MqttError: the connection is lost.
        """
        if missing := await self._echoes.run(connection):
            hint = "give this device its rights, as `edgeml fleet broker-config` writes them for its certificate's name"
            message = f"the broker doesn't deliver this device's messages on {', '.join(missing)}"
            raise TransportError("topic-forbidden", message, hint)

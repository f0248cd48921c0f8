"""The broker of the demonstration: clients that hang up at once leave no traceback."""

from __future__ import annotations

import asyncio
import socket
import struct

from edgeml.demo import site

#: A CONNECT of MQTT 5, which amqtt refuses and answers by closing.
CONNECT_V5 = bytes.fromhex("101000044d5154540502003c000003616263")
#: Closing with this option resets the connection, as a client does that has unread bytes.
RESET = struct.pack("ii", 1, 0)


def test_client_that_resets_its_connection_is_no_error():
    """The refusal of MQTT 5 meets a closed connection: nothing reaches asyncio's handler of unhandled errors."""
    unhandled = []

    async def connect_and_reset(port: int) -> None:
        _, writer = await asyncio.open_connection(site.LOOPBACK, port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.write(CONNECT_V5)
        await writer.drain()
        writer.transport.abort()

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        port = site.free_port()
        async with site._broker(port):
            for _ in range(20):
                await connect_and_reset(port)
            await asyncio.sleep(0.2)

    asyncio.run(scenario())
    assert unhandled == []

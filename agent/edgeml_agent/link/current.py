"""The current connection to the broker, shared by the parts of the link; errors of MQTT become errors of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import TransportError
from edgeml_io.mqtt import Connection, MisbehavingError, MqttError, RefusedError

#: Seconds for which a request waits for a connection: a broker that restarts is back within them.
CONNECT_WAIT_S: Final = 20.0


class CurrentConnection:
    """The connection, while there is one.

    Args:
        url: the broker's address, for messages.
    """

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._online = asyncio.Event()

    @property
    def is_online(self) -> bool:
        """Return whether the connection is up, as far as is known."""
        return self._online.is_set()

    @contextmanager
    def use(self, connection: Connection) -> Iterator[None]:
        """Let `connection` be the current one for the time of the block."""
        self._connection = connection
        self._online.set()
        try:
            yield
        finally:
            self._connection = None
            self._online.clear()

    async def get(self) -> Connection:
        """Wait for a connection.

        Raises:
            TransportError: `broker-unreachable`, when there is none within `CONNECT_WAIT_S`.
        """
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                await self._online.wait()
        except TimeoutError as error:
            message = f"no connection to {self._url} within {CONNECT_WAIT_S:.0f} s"
            raise TransportError("broker-unreachable", message, "check [broker] url and the network") from error
        assert self._connection is not None  # noqa: S101 - set before the event, on the same loop
        return self._connection

    def get_now(self) -> Connection | None:
        """Return the connection, or None while there is none."""
        return self._connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise `TransportError` in place of the adapter's errors."""
        try:
            yield
        except MqttError as error:
            raise self.transport_error(error) from error

    def transport_error(self, error: BaseException) -> TransportError:
        """Return an error of MQTT as one of the agent's: `broker-misbehaves`, `-refused` or `-unreachable`."""
        if isinstance(error, MisbehavingError):
            hint = "find out which program answers there, and check [broker] url and ca in agent.toml"
            return TransportError("broker-misbehaves", f"{self._url}: {error}", hint)
        if isinstance(error, RefusedError):
            hint = "check the user in [broker] url, and password_file or cert in agent.toml; the agent tries again"
            return TransportError("broker-refused", f"{self._url}: {error}", hint)
        hint = "check [broker] in agent.toml, the network and the broker's log; the agent tries again"
        return TransportError("broker-unreachable", f"{self._url}: {error}", hint)

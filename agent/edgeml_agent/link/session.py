"""The device's session with a broker: the bounds of its inbox, and its TLS files as agent.toml names them.

The protocol is left to `edgeml_io.mqtt`, the time of the next connection to `link`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Final

from edgeml_agent import log
from edgeml_agent.settings import BrokerSettings
from edgeml_core.errors import UsageError
from edgeml_core.messages import Topics
from edgeml_io import tls
from edgeml_io.mqtt import MqttError, Options, Session
from edgeml_io.password_file import with_password

#: Seconds for an answer of the broker: on a slow network it follows a window of chunks. The keepalive finds a dead one.
ANSWER_TIMEOUT_S: Final = 60.0
#: Messages received and not handled yet: handling takes microseconds, so more of them are a flood.
INBOX_MAX_MESSAGES: Final = 4096
#: Bytes of their payloads: two of the longest packets, on a board with 512 MB.
INBOX_MAX_BYTES: Final = 16 * 1024**2


class _DeviceSession(Session):
    """A session that reads the password's file and the TLS files for each connection; see `session`."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        late_floor: Callable[[], datetime | None],
        newest: Callable[[], BrokerSettings] | None,
    ) -> None:
        options = Options(
            answer_timeout_s=ANSWER_TIMEOUT_S,
            inbox_max_messages=INBOX_MAX_MESSAGES,
            inbox_max_bytes=INBOX_MAX_BYTES,
            # Else a flood of requests drops a signed file, which the broker doesn't send again on the same connection.
            yields=Topics.is_inference,
        )
        super().__init__(settings.url, client_id, options)
        self._settings = settings
        self._late_floor = late_floor
        self._newest = newest
        self._were_usable = False

    def prepare(self) -> ssl.SSLContext | None:
        """See `Session.prepare`."""
        settings = self._settings
        try:
            self.url = with_password(settings.url, settings.password_file)
            log.hide(self.url.password)
            newest = settings if self._newest is None else self._newest()
            context = tls_context(newest, self._late_floor()) if self.url.tls else None
        except UsageError as error:
            if self._were_usable:
                raise MqttError(error.message) from error
            raise
        self._were_usable = True
        return context


def session(
    settings: BrokerSettings,
    client_id: str,
    late_floor: Callable[[], datetime | None] = lambda: None,
    newest: Callable[[], BrokerSettings] | None = None,
) -> Session:
    """Make a session; its first connection raises `UsageError` when the password's file or a TLS file can't be used.

    A later one raises `MqttError`, as when it is lost: a file that is replaced costs a connection, and no pause.

    Args:
        settings: the broker's address, the password's file and the TLS files.
        client_id: the MQTT client id.
        late_floor: returns the newest signed time that this device has seen, if the clock is before it; else None. A
            connection then accepts certificates that haven't begun by the clock, and refuses those that ended before
            that time: a board whose clock starts in 1970 could never connect otherwise.
        newest: returns the settings with the TLS files that a connection uses; by default `settings`.
    """
    return _DeviceSession(settings, client_id, late_floor, newest)


def tls_context(settings: BrokerSettings, late_floor: datetime | None) -> ssl.SSLContext:
    """Make the TLS context of a connection; `session` describes the errors and `late_floor`."""
    try:
        return tls.client_context(ca=settings.ca, cert=settings.cert, key=settings.key, late_floor=late_floor)
    except OSError as error:
        message = f"the broker's ca, cert or key can't be used: {error}"
        raise UsageError("config-invalid", message, f"name PEM files for {settings.url} in agent.toml") from error

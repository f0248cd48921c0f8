"""HTTP on one connection, as uvicorn has it, and how much a client may ask of the server's patience and memory.

Imported only by a running server, as `connections`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.flow_control import FlowControl

from edgeml_agent.http_api import limits

#: From the connection, or the first byte of a later request, to the end of the request's head; and how long that is.
HEAD_MAX_S: Final = 10.0
HEAD_MAX_BYTES: Final = 64 * 1024


class _Flow(FlowControl):
    """Reads no further while requests wait for those before them: uvicorn would, and keep any number."""

    def __init__(self, transport: Any, waiting: Sized) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """See uvicorn; called once more when the last that waits has its turn."""
        if not self._waiting:
            super().resume_reading()


class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type] # uvicorn chooses the class when imported
    """uvicorn's HTTP on a connection that is closed when it doesn't come to the end of a request's head in time.

    The callbacks of a request's parts are httptools'. h11 doesn't call them, and has a bound of its own for heads.
    """

    #: When the connection is closed, while a head is expected, and how much of that has come.
    _closing: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _is_in_head = False
    #: How many requests began with the data that came last.
    _begun = 0

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow = _Flow(transport, getattr(self, "pipeline", ()))  # h11 reads one request at a time
        self._closing = self.loop.call_later(HEAD_MAX_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._begun = 0
        super().data_received(data)
        if self._is_heard():
            self._forget()
        else:
            self._expect_head(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._forget()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._is_in_head = True
        self._begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._is_in_head = False
        super().on_headers_complete()

    def _is_heard(self) -> bool:
        """Whether the request that came last is being answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.scope[limits.BODY_IS_HERE] = not self.cycle.more_body
        return True

    def _expect_head(self, size_bytes: int) -> None:
        """No request is under way; so much has come, of a head or of a body that nobody reads any more."""
        self._head_bytes += size_bytes if self._is_in_head and not self._begun else 0
        if self._head_bytes > HEAD_MAX_BYTES:
            self.send_400_response(f"The head is longer than {HEAD_MAX_BYTES} bytes.")
        elif self._closing is None:
            self._closing = self.loop.call_later(HEAD_MAX_S, self.transport.close)

    def _forget(self) -> None:
        """The head has come, or nobody waits for it."""
        self._head_bytes = 0
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

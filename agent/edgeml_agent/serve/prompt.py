"""HTTP on one connection: bounded in patience, and prompt where the application is.

A short request is offered to the application's short way: a task of its own costs more than the answer
of a small model. What isn't answered so goes uvicorn's way. Imported only by a running server, as `connections`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sized
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.flow_control import FlowControl

from edgeml_agent.serve import bounds
from edgeml_agent.serve.asgi import Application
from edgeml_agent.serve.worker import AT_ONCE_MAX_BYTES

#: Open connections; past it requests are answered 503.
CONNECTIONS_MAX: Final = 256
#: From the connection, or the first byte of a later request, to the end of the request's head.
HEAD_MAX_S: Final = 10.0
KEEP_ALIVE_S: Final = 75
#: So long the rest of a short request may take; many clients send the body behind the head.
HELD_MAX_S: Final = 0.05
#: A target that needs no decoding.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_HEAD_END: Final = b"\r\n\r\n"
_PHRASES: Final = {int(status): status.phrase.encode() for status in HTTPStatus} | {499: b""}


class _Known(NamedTuple):
    """A request that was answered at once: its head with the empty line, its length, and its scope."""

    head: bytes
    size_bytes: int
    scope: Scope


class _Flow(FlowControl):
    """Reads no further while requests wait for those before them: uvicorn would, and keep any number."""

    def __init__(self, transport: Any, waiting: Sized) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """See uvicorn; called once more when the last that waits has its turn."""
        if not self._waiting:
            super().resume_reading()


class PromptProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type] # uvicorn chooses the class when imported
    """uvicorn's HTTP on a connection that is closed when it doesn't come to the end of a request's head in time.

    A short POST is held back until it ends: the callbacks of its parts are httptools', which h11 doesn't call. Most
    clients send the same head with every request: what was found in it is good for the next one, too.
    """

    _closing: asyncio.TimerHandle | None = None
    #: The body of the request that is held back, None while none is; and when it is so no longer.
    _held: bytearray | None = None
    _letting_go: asyncio.TimerHandle | None = None
    #: There while nothing but that request came since the connection had nothing under way.
    _known: _Known | None = None
    #: The body of the last request, if it was answered at once.
    _answered: bytes | None = None
    #: Whether a request has begun and not ended, and how many began with the data that came last.
    _is_within = False
    _begun = 0
    _heard_s = 0.0

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow = _Flow(transport, getattr(self, "pipeline", ()))  # h11 reads one request at a time
        self._closing = self.loop.call_later(HEAD_MAX_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._known is not None and self._is_known(data, self._known):
            return
        self._known, self._answered, was_within, self._begun = None, None, self._is_within, 0
        super().data_received(data)
        if self._held is not None:
            self._forget()
            if self._letting_go is None:
                self._letting_go = self.loop.call_later(HELD_MAX_S, self._let_go)
        elif self._answered is not None:
            self._forget()
            if not was_within and self._begun == 1:
                self._learn(data, self._answered)
        elif self.cycle is not None and not self.cycle.response_complete:
            self.cycle.scope[bounds.BODY_IS_HERE] = not self.cycle.more_body
            self._forget()
        elif self._closing is None:
            self._closing = self.loop.call_later(HEAD_MAX_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._forget()
        self._take_held()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn; what was known meanwhile has not set the time anew."""
        left_s = self._heard_s + KEEP_ALIVE_S - self.loop.time()
        if left_s <= 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._answered, self._is_within = None, True
        self._begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self._may_be_prompt():
            self._held = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self._held is None:
            super().on_body(body)
            return
        self._held += body
        if len(self._held) > AT_ONCE_MAX_BYTES:
            self._let_go()

    def on_message_complete(self) -> None:
        """See httptools."""
        self._is_within = False
        if self._held is not None:
            body = bytes(self._held)
            if response := self._at_once(body):
                self._answered = self._take_held()
                self._write(response)
                self.on_response_complete()
                return
            self._let_go()
        super().on_message_complete()

    def _learn(self, data: bytes, body: bytes) -> None:
        """Know the request in `data`, which is nothing but its head and its body as they are."""
        head = data.removesuffix(body)
        if head.find(_HEAD_END) == len(head) - len(_HEAD_END):
            self._known = _Known(head, len(data), self.scope)

    def _is_known(self, data: bytes, known: _Known) -> bool:
        """Whether `data` is that request again, maybe with another body, and was answered."""
        if len(data) != known.size_bytes or not data.startswith(known.head) or self.flow.write_paused:
            return False
        response = self.app.at_once(known.scope, data[len(known.head) :])
        if response is None:
            return False
        self._heard_s = self.loop.time()
        self._write(response)
        return True

    def _may_be_prompt(self) -> bool:
        """Whether the request whose head has come is a plain one, and nothing is before it."""
        return (
            self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and len(self.connections) < CONNECTIONS_MAX
        )

    def _at_once(self, body: bytes) -> Response | None:
        path = self.url.decode("latin-1")
        if not _PLAIN_PATH.fullmatch(path):
            return None
        self.scope["method"], self.scope["path"] = "POST", path
        application: Application = self.app
        return application.at_once(self.scope, body)

    def _write(self, response: Response) -> None:
        """Send a response whose connection stays open."""
        headers = [b"%b: %b\r\n" % it for it in (*self.server_state.default_headers, *response.raw_headers)]
        status, body = response.status_code, bytes(response.body)
        line = b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES[status])
        self.transport.write(b"".join((line, *headers, b"\r\n", body)))

    def _let_go(self) -> None:
        """What was held back goes uvicorn's way."""
        body = self._take_held()
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _take_held(self) -> bytes:
        held, self._held = self._held, None
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        return bytes(held or b"")

    def _forget(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

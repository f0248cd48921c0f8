"""Short requests answered where they are read: a task of its own costs more than the answer of a small model.

A request that the application doesn't answer at once goes uvicorn's way. Imported only by a running server, as
`connections`.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.responses import Response
from starlette.types import Scope

from edgeml_agent.http_api.asgi import Application
from edgeml_agent.http_api.head_limits import ImpatientProtocol
from edgeml_agent.serve.worker import AT_ONCE_MAX_BYTES

#: Open connections; past it requests are answered 503.
CONNECTIONS_MAX: Final = 256
KEEP_ALIVE_S: Final = 75
#: So long the rest of a short request may take; many clients send the body behind the head.
HELD_MAX_S: Final = 0.05
#: A head that is remembered.
KNOWN_MAX_BYTES: Final = 4 * 1024
#: A target that needs no decoding.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_HEAD_END: Final = b"\r\n\r\n"
_PHRASES: Final = {int(status): status.phrase.encode() for status in HTTPStatus} | {499: b""}


class _Known(NamedTuple):
    """A request that was answered at once: its head with the empty line, its length, and its scope."""

    head: bytes
    size_bytes: int
    scope: Scope


class PromptProtocol(ImpatientProtocol):
    """HTTP on a connection whose short POSTs are held back until they end, and then offered to `Application.at_once`.

    Most clients send the same head with every request: what was found in it is good for the next one, too.
    """

    #: The body of the request that is held back, None while none is; and when it is so no longer.
    _held: bytearray | None = None
    _letting_go: asyncio.TimerHandle | None = None
    #: The body of the last request, if it was answered at once.
    _answered: bytes | None = None
    #: There while nothing but that request came since the connection had nothing under way; and when it came last.
    _known: _Known | None = None
    _heard_s = 0.0
    #: Whether a request has begun and not ended.
    _is_within = False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._known is not None and self._is_known(data, self._known):
            return
        self._known, self._answered, was_within = None, None, self._is_within
        super().data_received(data)
        if self._held is not None and self._letting_go is None:
            self._letting_go = self.loop.call_later(HELD_MAX_S, self._fall_back)
        if self._answered is not None and self._begun == 1 and not was_within:
            self._learn(data, self._answered)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
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
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self._may_be_prompt():
            self._is_in_head, self._held = False, bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self._held is None:
            super().on_body(body)
            return
        self._held += body
        if len(self._held) > AT_ONCE_MAX_BYTES:
            self._fall_back()

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
            self._fall_back()
        super().on_message_complete()

    def _is_heard(self) -> bool:
        return self._held is not None or self._answered is not None or super()._is_heard()

    def _learn(self, data: bytes, body: bytes) -> None:
        """Know the request in `data`, which is nothing but its head and its body as they are."""
        head = data.removesuffix(body)
        if head.find(_HEAD_END) == len(head) - len(_HEAD_END) and len(head) <= KNOWN_MAX_BYTES:
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

    def _fall_back(self) -> None:
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

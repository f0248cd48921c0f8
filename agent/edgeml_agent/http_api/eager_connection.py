"""HTTP on a connection by httptools, with the first step of a request run where it is read.

uvicorn makes a task for each request. Where the whole request has arrived, this module runs the first step of the same
coroutine at once, in the callback that read the request. A request to a brief model is answered within that step and
needs no task. A coroutine that suspends goes on as a task.

There is no current task in the first step, so `asyncio.timeout` can't be used there. The application uses it for bodies
that have not arrived only, and those requests begin as tasks.

Imported only by a running server, as `uvicorn_server`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Sized
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from edgeml_agent.http_api import request
from edgeml_agent.http_api.connections import HEAD_MAX_BYTES, BoundedConnection, HeadDeadline, cancel

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_INVALID: Final = "Invalid HTTP request received."
_CONNECT: Final = b"CONNECT"
#: Statuses whose responses have no body, nor a length.
_BODILESS: Final = frozenset({204, 304})


class _Flow(FlowControl):
    """Reads no further while requests wait for those before them: uvicorn would, and keep any number."""

    def __init__(self, transport: Any, waiting: Sized) -> None:  # noqa: ANN401 - as `HeadDeadline`
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """See uvicorn; called once more when the last waiting request begins."""
        if not self._waiting:
            super().resume_reading()


class _Begun(Coroutine[Any, Any, None]):
    """A coroutine whose first step has run: gives the future that it awaits to the task that goes on with it."""

    def __init__(self, work: Coroutine[Any, Any, None], awaited: Any) -> None:  # noqa: ANN401 - what a step yields
        self._work = work
        self._awaited = awaited
        self._is_known = False

    def send(self, value: Any) -> Any:  # noqa: ANN401 - as a coroutine
        if self._is_known:
            return self._work.send(value)
        self._is_known = True
        return self._awaited

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 - as a coroutine
        if not self._is_known and self._awaited is not None:
            self._awaited.cancel()  # as a task does with the future that it awaits
        self._is_known = True
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError


class _Cycle(RequestResponseCycle):
    """A request and its response. The head of a response is written together with the first part of its body."""

    logger = logging.getLogger("uvicorn.error")
    disconnected = response_started = response_complete = False
    more_body = True
    #: Set when a part of the body arrives; requests that begin whole share one that is never awaited.
    message_event = asyncio.Event()
    _head: bytes = b""

    def __init__(self, connection: EagerConnection, *, keep_alive: bool) -> None:
        self.scope = connection.scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.waiting_for_100_continue = connection.expect_100_continue
        self.keep_alive = keep_alive
        self.body = bytearray()

    async def send(self, message: Any) -> None:  # noqa: ANN401 - a message of ASGI
        """Send a message of the response; nothing once the client has disconnected."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._encode_head(message["status"], message.get("headers", ()))
            return
        is_last = not message.get("more_body", False)
        self.transport.write(self._head + self._encode_body(message.get("body", b""), is_last=is_last))
        self._head = b""
        if is_last:
            self.response_complete = True
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _encode_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        parts = [STATUS_LINE[status]]
        self.chunked_encoding = status not in _BODILESS and self.scope["http_version"] == "1.1"
        for name, value in (*self.default_headers, *headers):
            if name == b"connection":
                self.keep_alive = self.keep_alive and value != b"close"
                continue
            if name == b"content-length":
                self.chunked_encoding = False
            parts.append(b"%b: %b\r\n" % (name, value))
        if self.chunked_encoding:
            parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _encode_body(self, body: bytes, *, is_last: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            return b""
        if not self.chunked_encoding:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if is_last else chunk


class EagerConnection(BoundedConnection, HttpToolsProtocol):  # type: ignore[misc] # see `H11Connection`
    """HTTP by httptools, with eager start. The callbacks of a request's parts are httptools'."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as `HeadDeadline`
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        #: Requests that begin when all of the data that has come is parsed; and whether it is being parsed.
        self._beginning: deque[tuple[RequestResponseCycle, ASGIApp]] = deque()
        self._is_reading = False
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._head = HeadDeadline(transport)
        self._head.begin()
        self._head_bytes = 0
        self._is_in_message = self._is_in_head = self._has_begun_request = False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._has_begun_request, self._is_reading = False, True
        self._last_byte_s = self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            self._decline(memoryview(data), end.args[0])
        except httptools.HttpParserError:
            self.send_400_response(_INVALID)
        while self._beginning:
            self._begin(*self._beginning.popleft())
        self._is_reading = False
        if self._is_in_message and not self._is_answering:
            self._expect_head(len(data))
        elif self._head.is_running:
            self._end_head()

    def _decline(self, data: memoryview, end: int) -> None:
        """Read requests that offer another protocol, as clients do that know HTTP/2, as if they didn't (RFC 9110, 7.8).

        httptools leaves what follows such a head to the other protocol, and with it the body. So it gets the head once
        more, without the offer. Behind a CONNECT nothing is read.

        Args:
            data: all that has come.
            end: of the head in it.
        """
        try:
            while self.parser.get_method() != _CONNECT:
                data = data[end:]
                version = self.parser.get_http_version().encode()
                head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
                head += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
                self.parser.feed_data(b"".join((*head, b"\r\n")))
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as further:
                    end = further.args[0]
                else:
                    return
        except httptools.HttpParserError:
            self.send_400_response(_INVALID)

    @property
    def _is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != _CONNECT

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end_head()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # after an error uvicorn leaves it, and it would begin again and again
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            cancel(self._running.scope, self._task)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._is_in_message = self._is_in_head = self._has_begun_request = True
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """See httptools; the head of a request is complete."""
        if self._is_offer:
            return  # it comes once more
        self._is_in_head = False
        version, url = self.parser.get_http_version(), httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope: Any = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
        }
        self.scope = scope
        before = self.cycle
        self.cycle = _Cycle(self, keep_alive=version == "1.1" and self.parser.should_keep_alive())
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._is_offer:
            return
        self._is_in_message = False
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """See uvicorn; begins the next request, or the time of an idle connection."""
        self.server_state.total_requests += 1
        self._open_connections.end(self)
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._last_byte_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._expect_request(self.timeout_keep_alive)

    def _expect_request(self, wait_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn; one timer serves many requests, as setting one takes as long as parsing a head."""
        left_s = self._last_byte_s + self.timeout_keep_alive - self.loop.time()
        if self._is_answering or left_s > 0:
            self._expect_request(self.timeout_keep_alive if self._is_answering else left_s)
        else:
            super().timeout_keep_alive_handler()

    @property
    def _has_begun_answer(self) -> bool:
        return self._running is not None and self._running.response_started and not self._running.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        """See uvicorn, which calls it when a head is complete and the requests before it are answered."""
        if self._is_reading:
            self._beginning.append((cycle, app))
        else:
            self._note_room(cycle.scope)
            self._go_on(cycle, self._prepared(cycle, app))

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        """Run the first step of a request that has arrived; any other begins as a task."""
        self._note_room(cycle.scope)
        work = self._prepared(cycle, app)
        if cycle.more_body:
            self._go_on(cycle, work)
            return
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        self._go_on(cycle, _Begun(work, awaited))

    def _prepared(self, cycle: RequestResponseCycle, app: Any) -> Coroutine[Any, Any, None]:  # noqa: ANN401 - see above
        """Give the body to the request, or the event of its next part; read on, so that a disconnect is seen."""
        if cycle.more_body:
            cycle.message_event = asyncio.Event()
            if cycle.body:
                cycle.message_event.set()
        else:
            cycle.scope[request.BODY] = bytes(cycle.body)  # type: ignore[typeddict-unknown-key] # ASGI allows keys of servers
            if self.flow.read_paused:
                self.flow.resume_reading()
        return cycle.run_asgi(app)

    def _go_on(self, cycle: RequestResponseCycle, work: Coroutine[Any, Any, None]) -> None:
        self._running, self._task = cycle, self.loop.create_task(work)
        self._open_connections.begin(self)
        self.tasks.add(self._task)
        self._task.add_done_callback(self.tasks.discard)

    def _expect_head(self, size_bytes: int) -> None:
        """Count the bytes of a head, or of the rest of a body that no endpoint reads, and bound its time."""
        self._head_bytes += size_bytes if self._is_in_head and not self._has_begun_request else 0
        if self._head_bytes > HEAD_MAX_BYTES:
            self.send_400_response(f"The head is longer than {HEAD_MAX_BYTES} bytes.")
        else:
            self._head.begin()

    def _end_head(self) -> None:
        self._head_bytes = 0
        self._head.end()

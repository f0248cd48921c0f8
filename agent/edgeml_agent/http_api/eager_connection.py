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
from collections import deque
from collections.abc import Coroutine, Generator, Sized
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeml_agent.http_api import request
from edgeml_agent.http_api.connections import HEAD_MAX_BYTES, HeadDeadline, cancel

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


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
        self._is_known = True
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError


class EagerConnection(HttpToolsProtocol):
    """HTTP by httptools, with eager start. The callbacks of a request's parts are httptools'."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as `HeadDeadline`
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        #: Requests that begin when all of the data that has come is parsed.
        self._beginning: deque[tuple[RequestResponseCycle, ASGIApp]] | None = None
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._head = HeadDeadline(transport)
        self._head.begin()
        self._head_bytes = 0
        self._is_in_head = self._has_begun_request = False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._has_begun_request = False
        self._beginning = deque()
        super().data_received(data)
        while self._beginning:
            self._begin(*self._beginning.popleft())
        self._beginning = None
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head(len(data))
        else:
            self._end_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end_head()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            cancel(self._running.scope, self._task)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._is_in_head = self._has_begun_request = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._is_in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        """See uvicorn, which calls it when a head is complete and the requests before it are answered."""
        if self._beginning is None:
            self._go_on(cycle, cycle.run_asgi(app))
        else:
            self._beginning.append((cycle, app))

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        """Run the first step of a request that has arrived; any other begins as a task."""
        work = cycle.run_asgi(app)
        if cycle.more_body:
            self._go_on(cycle, work)
            return
        cycle.scope[request.IS_WHOLE] = True  # type: ignore[typeddict-unknown-key] # ASGI allows keys of servers
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        self._go_on(cycle, _Begun(work, awaited))

    def _go_on(self, cycle: RequestResponseCycle, work: Coroutine[Any, Any, None]) -> None:
        self._running, self._task = cycle, self.loop.create_task(work)
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

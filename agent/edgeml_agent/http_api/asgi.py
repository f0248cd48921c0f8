"""ASGI as it is used here: an application that may answer at once, and the headers of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

#: In a request's scope: its headers by name.
_HEADERS: Final = "edgeml.headers"


class Application(Protocol):
    """An ASGI application with a short way for requests that come whole and are answered quickly."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI has it."""

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """The answer, if it takes no longer than a switch to another task; None when the request is for `__call__`."""


def headers(scope: Scope) -> Mapping[bytes, str]:
    """A request's headers by name, in lower case as ASGI has it; of those that came twice the first.

    Each request is asked for half a dozen: starlette's mapping takes a tenth of its time.
    """
    found: Mapping[bytes, str] | None = scope.get(_HEADERS)
    if found is None:
        found = scope[_HEADERS] = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
    return found

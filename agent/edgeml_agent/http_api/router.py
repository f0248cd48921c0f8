"""All routes of all doors: finds the endpoint of a request, and makes a response of what goes wrong in it.

Instead of starlette's router and its layers for exceptions, which take as long as a small model; routes, requests and
responses are starlette's. What a failure looks like at each door is `responses`' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgeml_agent import log
from edgeml_agent.http_api import responses
from edgeml_agent.http_api.asgi import headers
from edgeml_core.errors import EdgemlError, UsageError

#: Paths whose endpoint is remembered, and how long they may be: clients ask the same few.
PATHS_REMEMBERED: Final = 64
PATH_REMEMBERED_MAX_CHARS: Final = 256
_BROKEN: Final = EdgemlError("internal", "the server failed", "its log has the details")


class Endpoint(Protocol):
    """What answers the requests of a route; one that can answer some of them at once has `Application.at_once`, too."""

    async def __call__(self, request: Request) -> Response:
        """The answer."""


class Doors:
    """An application of all routes.

    Args:
        routes: their paths are exact, or have `{names}` for parts without a slash. Exact ones go first; of the others
            those that stand first.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._others = [route for route in routes if "{" in route.path]
        for route in routes:
            if "{" not in route.path:
                self._exact.setdefault(route.path, []).append(route)
        self._remembered = lru_cache(PATHS_REMEMBERED)(self._found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. What nobody foresaw is raised after the client was told, for the log."""
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(scope)(request)
        except EdgemlError as failure:
            response = responses.error(scope["path"], failure)
        except Exception:
            await responses.error(scope["path"], _BROKEN)(scope, receive, send)
            raise
        await response(scope, receive, send)

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `asgi.Application`."""
        at_once = getattr(self._endpoint(scope), "at_once", None)
        if at_once is None or b"content-encoding" in headers(scope):
            return None
        response: Response | None
        try:
            response = at_once(scope, body)
        except EdgemlError as failure:
            response = responses.error(scope["path"], failure)
        except Exception as error:  # noqa: BLE001 - a defect met by one request must not close the connection
            log.defect("request failed", error, path=scope["path"])
            response = responses.error(scope["path"], _BROKEN)
        return response

    def _endpoint(self, scope: Scope) -> Endpoint:
        """What answers the request's path and method."""
        path = scope["path"]
        find = self._remembered if len(path) <= PATH_REMEMBERED_MAX_CHARS else self._found
        endpoint, scope["path_params"] = find(path, scope["method"])
        return endpoint

    def _found(self, path: str, method: str) -> tuple[Endpoint, Mapping[str, str]]:
        """What answers, and the `{names}`' parts of the path."""
        allowed = set[str]()
        for route in self._exact.get(path, ()) or self._others:
            found = route.path_regex.match(path)
            if found and route.methods and method in route.methods:
                endpoint: Endpoint = route.endpoint
                return endpoint, found.groupdict()
            allowed.update((found and route.methods) or ())
        return _refusal(allowed), {}


def _refusal(allowed: set[str]) -> Endpoint:
    """The endpoint of what isn't served; where another method is, it tells which (RFC 9110, section 15.5.6)."""

    async def refuse(request: Request) -> Response:
        path = request.scope["path"]
        unknown = UsageError("route-unknown", f"nothing is served at {request.method} {path}")
        if not allowed:
            return responses.error(path, unknown)
        response = responses.error(path, unknown, HTTPStatus.METHOD_NOT_ALLOWED)
        response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    return refuse

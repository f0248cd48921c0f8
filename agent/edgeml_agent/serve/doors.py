"""All routes of all doors: finds the endpoint of a request, and makes a response of what goes wrong in it.

Instead of starlette's router and its layers for exceptions, which take as long as a small model; routes, requests and
responses are starlette's. What a failure looks like at each door is `responses`' business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgeml_agent.serve import responses
from edgeml_core.errors import EdgemlError, UsageError

Endpoint = Callable[[Request], Awaitable[Response]]
_BROKEN: Final = EdgemlError("internal", "the server failed", "its log has the details")


class Doors:
    """An ASGI application.

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

    def _endpoint(self, scope: Scope) -> Endpoint:
        """What answers the request's path and method."""
        path, method, allowed = scope["path"], scope["method"], set[str]()
        for route in self._exact.get(path, ()) or self._others:
            found = route.path_regex.match(path)
            if found and route.methods and method in route.methods:
                scope["path_params"] = found.groupdict()
                endpoint: Endpoint = route.endpoint
                return endpoint
            allowed.update((found and route.methods) or ())
        return _refusal(allowed)


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

"""The routes of the operation table: finds the endpoint of a path and a method. Checks are the gateway's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.responses import Response

from edgeml_agent.http_api import errors
from edgeml_agent.http_api.errors import ErrorForm
from edgeml_agent.http_api.openapi.operations import Operation
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_core.errors import UsageError

#: Paths whose route is remembered; clients use the same few. And characters of such a path, to bound memory.
PATHS_REMEMBERED: Final = 64
PATH_REMEMBERED_MAX_CHARS: Final = 256
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


class Route(NamedTuple):
    """The endpoint of a path and a method, and what the gateway checks before it.

    Attributes:
        params: the named parts of the path.
        is_public: whether a request needs no token.
        waits: whether a request waits until the models of the last run are loaded.
        is_cancellable: whether a request is cancelled when its client disconnects.
    """

    endpoint: Endpoint
    params: Mapping[str, str]
    error_form: ErrorForm
    is_public: bool
    waits: bool
    is_cancellable: bool


class Router:
    """Finds routes.

    Args:
        operations: the table. Exact paths win over those with `{names}` for parts without a slash.
        endpoints: by the names that the operations have for them.
    """

    def __init__(self, operations: Iterable[Operation], endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._exact: dict[str, list[Operation]] = {}
        self._patterns: list[tuple[re.Pattern[str], Operation]] = []
        for it in operations:
            if "{" in it.path:
                self._patterns.append((re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", it.path)), it))
            else:
                self._exact.setdefault(it.path, []).append(it)
        self._remembered = lru_cache(PATHS_REMEMBERED)(self._found)

    def find(self, method: str, path: str) -> Route:
        """Find the route; for a path or method that isn't served, one that refuses."""
        find = self._remembered if len(path) <= PATH_REMEMBERED_MAX_CHARS else self._found
        return find(method, path)

    def _found(self, method: str, path: str) -> Route:
        allowed, form = set[str](), errors.form_of_unknown(path)
        for operation, params in self._at(path):
            if method in operation.methods:
                return Route(
                    self._endpoints[operation.endpoint],
                    params,
                    operation.error_form,
                    operation.is_public,
                    operation.waits,
                    operation.is_cancellable,
                )
            allowed, form = allowed | operation.methods, operation.error_form
        return Route(_refusal(form, allowed), {}, form, is_public=False, waits=True, is_cancellable=False)

    def _at(self, path: str) -> list[tuple[Operation, Mapping[str, str]]]:
        """The operations at a path, with the named parts of it."""
        if path in self._exact:
            return [(it, {}) for it in self._exact[path]]
        return [(it, found.groupdict()) for pattern, it in self._patterns if (found := pattern.fullmatch(path))]


def _refusal(form: ErrorForm, allowed: set[str]) -> Endpoint:
    """The endpoint of a path or method that isn't served; names the methods that are (RFC 9110, section 15.5.6)."""

    async def refuse(request: Request) -> Response:
        unknown = UsageError("route-unknown", f"nothing is served at {request.scope['method']} {request.path}")
        if not allowed:
            return errors.response(form, unknown)
        response = errors.response(form, unknown, HTTPStatus.METHOD_NOT_ALLOWED)
        response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    return refuse

"""The application: all doors over one set of live models, with one way in and one way for errors to leave.

`build` makes it; `edgeml_agent.serve.server` runs it. Each door is a file of its own.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.serve import health, metrics_door, oip, openai, openapi, page, predict, responses
from edgeml_agent.serve.access import Access, Rules
from edgeml_agent.serve.bounds import Bounded, UntilReady
from edgeml_agent.serve.health import ServerInfo
from edgeml_agent.serve.metrics_door import Further
from edgeml_agent.serve.models import Models
from edgeml_core.errors import EdgemlError, UsageError

__all__ = ["ServerInfo", "build"]


def build(models: Models, info: ServerInfo, rules: Rules, further: Further = lambda: iter(())) -> Starlette:
    """The application.

    Args:
        models: what it serves; whoever activates models goes on doing so while it runs.
        rules: `edgeml_agent.serve.access.rules` makes them for an address.
        further: metrics that aren't the server's.
    """
    app = Starlette(
        routes=[
            *oip.routes(models, info),
            *predict.routes(models),
            *openai.routes(models),
            *health.routes(info, root="/health"),
            *page.routes(models, info),
            *metrics_door.routes(models, info, further),
            *openapi.routes(info, needs_token=rules.token is not None),
            Route("/health", partial(_whole, info), methods=["GET"]),
        ],
        middleware=[Middleware(Access, rules), Middleware(UntilReady, info), Middleware(Bounded)],
        exception_handlers={EdgemlError: _failed, HTTPException: _not_routed, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return app


async def _whole(info: ServerInfo, _: Request) -> Response:
    return responses.json(info.health())


async def _failed(request: Request, failure: Exception) -> Response:
    if not isinstance(failure, EdgemlError):
        return await _broken(request, failure)
    return responses.error(request.url.path, failure)


async def _not_routed(request: Request, failure: Exception) -> Response:
    status = failure.status_code if isinstance(failure, HTTPException) else HTTPStatus.NOT_FOUND
    unknown = UsageError("route-unknown", f"nothing is served at {request.method} {request.url.path}")
    response = responses.error(request.url.path, unknown, status)
    # Of a method that isn't served it tells which are (RFC 9110, section 15.5.6).
    response.headers.update((isinstance(failure, HTTPException) and failure.headers) or {})
    return response


async def _broken(request: Request, _: Exception) -> Response:
    """What went wrong is in the log; the client learns only that it did."""
    return responses.error(request.url.path, EdgemlError("internal", "the server failed", "its log has the details"))

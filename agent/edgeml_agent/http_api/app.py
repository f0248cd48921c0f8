"""The application: all doors over one set of live models, with one way in.

`build` makes it; `edgeml_agent.http_api.server` runs it. Each door is a file of its own; `doors` has them all.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.http_api import health, metrics, openapi, page, predict, responses
from edgeml_agent.http_api.asgi import Application
from edgeml_agent.http_api.auth import Access, Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.limits import Bounded, UntilReady
from edgeml_agent.http_api.metrics import Further
from edgeml_agent.http_api.oip import routes as oip
from edgeml_agent.http_api.openai import routes as openai
from edgeml_agent.http_api.router import Doors
from edgeml_agent.serve.models import Models

__all__ = ["ServerInfo", "build", "routes"]


def build(models: Models, info: ServerInfo, rules: Rules, further: Further = lambda: iter(())) -> Application:
    """The application: who may enter, when, with how much; then the doors.

    Args:
        models: what it serves; whoever activates models goes on doing so while it runs.
        rules: `edgeml_agent.http_api.auth.rules` makes them for an address.
        further: metrics that aren't the server's.
    """
    return Access(UntilReady(Bounded(Doors(routes(models, info, rules, further))), info), rules)


def routes(models: Models, info: ServerInfo, rules: Rules, further: Further = lambda: iter(())) -> list[Route]:
    """Everything that is served; what is asked most stands first."""
    return [
        *oip.routes(models, info),
        *predict.routes(models),
        *openai.routes(models),
        *health.routes(info, root="/health"),
        *page.routes(models, info),
        *metrics.routes(models, info, further),
        *openapi.routes(info, needs_token=rules.token is not None),
        Route("/health", partial(_whole, info), methods=["GET"]),
    ]


async def _whole(info: ServerInfo, _: Request) -> Response:
    return responses.json(info.health())

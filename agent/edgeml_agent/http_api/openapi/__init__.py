"""`GET /openapi.json`: what the HTTP doors take and answer, as an OpenAPI 3.1 document.

`operations` says it of each path in a table, `document` writes it down. Neither is loaded, nor anything made, before
somebody asks.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.http_api import responses
from edgeml_agent.http_api.health import ServerInfo

PATH: Final = "/openapi.json"


def routes(info: ServerInfo, *, needs_token: bool) -> list[Route]:
    """The route of the document.

    Args:
        needs_token: whether this server asks for one.
    """
    made: list[bytes] = []

    async def document(_: Request) -> Response:
        if not made:
            from edgeml_agent.http_api.openapi.document import encoded  # noqa: PLC0415 - see above

            made.append(encoded(info.version, needs_token=needs_token))
        return responses.json_bytes(made[0])

    return [Route(PATH, document, methods=["GET"])]

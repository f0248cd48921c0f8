"""`GET /openapi.json`: the HTTP APIs, as an OpenAPI 3.1 document.

`operations` is the table of all paths, `document` writes it down. The document is neither loaded nor made before the
first request for it.
"""

from __future__ import annotations

from starlette.responses import Response

from edgeml_agent.http_api import responses
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint


def endpoints(info: ServerInfo, *, needs_token: bool) -> dict[str, Endpoint]:
    """The endpoint of the document.

    Args:
        needs_token: whether this server demands a token.
    """
    made: list[bytes] = []

    async def document(_: Request) -> Response:
        if not made:
            from edgeml_agent.http_api.openapi.document import encoded  # noqa: PLC0415 - see above

            made.append(encoded(info.version, needs_token=needs_token))
        return responses.json_bytes(made[0])

    return {"document": document}

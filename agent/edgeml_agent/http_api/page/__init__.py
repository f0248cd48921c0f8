"""The page at `/`: the models, their card, try one, copy the call, the last latencies.

Static files that anybody may read, since they say nothing of this device; what they show comes from `/page/models`,
behind the token like every door. Nothing is loaded from elsewhere, and the browser is told to refuse it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.http_api import responses
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.page import view_model
from edgeml_agent.serve.models import Models

#: The files beside this one, and what they are.
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: The page's own files only; no markup made of text (Trusted Types), so that no answer of a model can become a script.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ROOT: Final = "/page"
_FOLDER: Final = Path(__file__).parent / "static"
_FIRST: Final = "index.html"
#: What the page shows, which it asks for again and again.
MODELS: Final = f"{ROOT}/models"


def routes(models: Models, info: ServerInfo) -> list[Route]:
    """The routes of the page."""

    async def static(request: Request) -> Response:
        return _file(FILES[request.url.path], request.headers.get("if-none-match"))

    async def listing(_: Request) -> Response:
        return responses.json(view_model.everything(models, info))

    return [
        *(Route(path, static, methods=["GET"]) for path in FILES),
        Route(MODELS, listing, methods=["GET"]),
    ]


def _files() -> dict[str, str]:
    """The name of each static file by its path."""
    found = sorted(it.name for it in _FOLDER.iterdir() if it.suffix in TYPES)
    return {"/": _FIRST} | {f"{ROOT}/{name}": name for name in found if name != _FIRST}


FILES: Final = _files()


def media_type(name: str) -> str:
    """What a file is."""
    return TYPES[Path(name).suffix]


@cache
def _read(name: str) -> tuple[bytes, str]:
    """A file, and a tag that changes with it."""
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _file(name: str, held: str | None) -> Response:
    content, tag = _read(name)
    headers = HEADERS | {"ETag": tag}
    if held == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type(name))

"""The page at `/`: the models, their card, try one, copy the call, the last latencies.

The static files are public, since they reveal nothing of this device. Their content comes from `/page/models`, which
needs the token. Nothing is loaded from elsewhere, and a policy makes the browser refuse it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from starlette.responses import Response

from edgeml_agent.http_api import responses
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.page import view_model
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.models import Models

#: Media types of the static files, by their suffix.
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: The page's own files only; no markup made of text (Trusted Types): no answer of a model can become a script.
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


def endpoints(models: Models, info: ServerInfo) -> dict[str, Endpoint]:
    """The endpoints of the page."""

    async def static(request: Request) -> Response:
        return _file(FILES[request.path], request.headers.get(b"if-none-match"))

    async def listing(_: Request) -> Response:
        return responses.json(view_model.everything(models, info))

    return {"page_file": static, "page_models": listing}


def _files() -> dict[str, str]:
    """The name of each static file by its path."""
    found = sorted(it.name for it in _FOLDER.iterdir() if it.suffix in TYPES)
    return {"/": _FIRST} | {f"{ROOT}/{name}": name for name in found if name != _FIRST}


FILES: Final = _files()


def media_type(name: str) -> str:
    """The media type of a file."""
    return TYPES[Path(name).suffix]


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Read a file; its tag changes with its content."""
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _file(name: str, held: str | None) -> Response:
    content, tag = _read(name)
    headers = HEADERS | {"ETag": tag}
    if held == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type(name))

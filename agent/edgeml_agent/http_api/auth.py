"""Who may talk to the server. On localhost: requests that name it, from no other web site. Elsewhere: a token.

The Host check is against DNS rebinding, the Origin check against pages of other sites; no CORS header is ever sent.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeml_agent.http_api import page, responses
from edgeml_agent.http_api.asgi import Application, headers
from edgeml_core.errors import EdgemlError, UsageError

TOKEN_MIN_CHARS: Final = 16
TOKEN_FILE_MAX_BYTES: Final = 4096
#: Host headers whose meaning is remembered: clients send the same few with every request.
HOSTS_REMEMBERED: Final = 32
#: What needs no token: a watchdog's questions, whose answers are two booleans, and the page, which asks for the token.
OPEN_PATHS: Final = frozenset(
    {"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", *page.FILES}
)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a request must show."""

    local_only: bool = True
    token: str | None = None

    def refusal(self, scope: Scope) -> EdgemlError | None:
        """Why a request isn't let in; None when it is."""
        sent = headers(scope)
        host, origin = sent.get(b"host", ""), sent.get(b"origin")
        if self.local_only and not _names_local(host):
            hint = "use http://localhost or 127.0.0.1, or listen on another address with a token"
            return UsageError("origin-refused", "this server answers to names of this machine only", hint)
        if origin is not None and _netloc(origin) != host:
            return UsageError("origin-refused", "pages of other sites may not use this server")
        if self.token is not None and scope["path"] not in OPEN_PATHS and not self._shown(scope):
            hint = "send the header 'Authorization: Bearer TOKEN' with the token of [serve] token_file"
            return UsageError("unauthorized", "the request carries no valid token", hint)
        return None

    def _shown(self, scope: Scope) -> bool:
        scheme, _, token = headers(scope).get(b"authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), (self.token or "").encode())


def rules(host: str, token_file: Path | None) -> Rules:
    """The rules for a server that listens on `host`.

    Raises:
        UsageError: `config-invalid`, when a token is needed and there is none, or its file is unfit.
    """
    token = None if token_file is None else _read_token(token_file)
    if token is None and not is_local(host):
        hint = "set [serve] token_file in agent.toml, or listen on 127.0.0.1"
        raise UsageError("config-invalid", f"listening on {host} without a token would let anybody in", hint)
    return Rules(local_only=is_local(host), token=token)


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=HOSTS_REMEMBERED)
def _names_local(host_header: str) -> bool:
    try:
        return is_local(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:
        return False


def _netloc(origin: str) -> str | None:
    """The host and port of an origin; None when it has none that could be this server's."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_FILE_MAX_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("config-invalid", f"the token file {str(path)!r} can't be read: {error}") from error
    if len(token) < TOKEN_MIN_CHARS or not token.isprintable() or " " in token:
        hint = "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        raise UsageError("config-invalid", f"the token in {str(path)!r} is shorter than {TOKEN_MIN_CHARS}", hint)
    return token


class Access:
    """ASGI middleware that lets a request pass by `Rules`, before a byte of its body is read."""

    def __init__(self, app: Application, allowed: Rules) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it."""
        app: ASGIApp = self._app
        if refusal := self._allowed.refusal(scope):
            app = responses.error(scope["path"], refusal)
        await app(scope, receive, send)

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `Application`."""
        return None if self._allowed.refusal(scope) else self._app.at_once(scope, body)

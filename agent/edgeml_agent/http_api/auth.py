"""Access rules. On localhost: requests must name it, and come from no other web site. Elsewhere: a token, too.

The Host check is against DNS rebinding, the Origin check against pages of other sites; no CORS header is ever sent.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.http_api.request import Request
from edgeml_core.errors import UsageError
from edgeml_io import http_hosts

#: Characters of a token; 16 random ones of base64 are 96 bits.
TOKEN_MIN_CHARS: Final = 16
#: Bytes of the token file that are read; a token is far shorter.
TOKEN_FILE_MAX_BYTES: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for requests: the host they must name, the token they must have."""

    local_only: bool = True
    token: str | None = None

    def check(self, request: Request, *, is_public: bool) -> None:
        """Check a request's headers.

        Args:
            is_public: whether its operation needs no token.

        Raises:
            UsageError: `origin-refused` or `unauthorized`.
        """
        sent = request.headers
        host, origin = sent.get(b"host", ""), sent.get(b"origin")
        if self.local_only and not http_hosts.names_local(host):
            hint = "use http://localhost or 127.0.0.1, or listen on another address with a token"
            raise UsageError("origin-refused", "this server answers to names of this machine only", hint)
        if origin is not None and http_hosts.netloc(origin) != host:
            raise UsageError("origin-refused", "pages of other sites may not use this server")
        if self.token is not None and not is_public and not self._has_token(sent.get(b"authorization", "")):
            hint = "send the header 'Authorization: Bearer TOKEN' with the token of [serve] token_file"
            raise UsageError("unauthorized", "the request has no valid token", hint)

    def _has_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), (self.token or "").encode())


def rules(host: str, token_file: Path | None) -> Rules:
    """Make the rules for a server that listens on `host`.

    Raises:
        UsageError: `config-invalid`, when a needed token is missing, or its file is unfit.
    """
    token = None if token_file is None else _read_token(token_file)
    if token is None and not http_hosts.is_local(host):
        hint = "set [serve] token_file in agent.toml, or listen on 127.0.0.1"
        raise UsageError("config-invalid", f"listening on {host} without a token would let anybody in", hint)
    log.hide(token)
    return Rules(local_only=http_hosts.is_local(host), token=token)


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

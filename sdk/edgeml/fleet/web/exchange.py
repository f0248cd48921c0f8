"""A checked request, as endpoints get it, and the answers that they return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.responses import Response

from edgeml.fleet.web.accounts import Account
from edgeml.fleet.web.operations import JSON, Query
from edgeml.fleet.web.sessions import Session

#: Headers of every answer. The pages have files of their own, no script or style inside, and stand in no frame.
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request, checked.

    Attributes:
        params: the named parts of its path.
        query: of the operation's type.
        body: of the operation's type, or the fields of a form.
        account: None for a public operation without one.
        session: of a browser that is logged in.
        cookie: the session's cookie as the browser sent it; empty without one.
        nonce: the cookie of the login form as the browser sent it; empty without one.
        address: the client's.
        is_fragment: whether htmx asks, which takes a part of the page.
        last_event: the last event that a browser has seen of a stream; empty for none.
    """

    params: Mapping[str, str]
    query: Query
    body: Any = None
    account: Account | None = None
    session: Session | None = None
    cookie: str = ""
    nonce: str = ""
    address: str = ""
    is_fragment: bool = False
    last_event: str = ""

    @property
    def actor(self) -> str:
        """The account, as the audit log names it."""
        return f"{self.account.name}@dashboard" if self.account else "dashboard"


def json(value: object, status: int = 200) -> Response:
    """Make an answer in JSON."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)

"""Logging in with a name and a password, or with a token, and logging out.

A login without a session can't have the CSRF token of one: its form repeats a cookie that came with it.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import RedirectResponse, Response

from edgeml.fleet.web import gateway, rendering
from edgeml.fleet.web.accounts import Accounts, Verified
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.gateway import LOGIN_COOKIE, SESSION_COOKIE, Endpoint
from edgeml.fleet.web.login_limits import LoginLimits
from edgeml.fleet.web.sessions import AGE_MAX_S, Sessions
from edgeml_core.errors import UsageError

#: Seconds for which the login form can be sent.
FORM_AGE_MAX_S: Final = 3600
#: The account of attempts with a token, for the limits: each address has its own limit anyway.
_TOKENS: Final = "\0tokens of "


class Login:
    """The endpoints of login and logout.

    Args:
        accounts: may log in.
        sessions: are begun and ended.
        is_secure: whether cookies are sent over TLS alone.
    """

    def __init__(self, accounts: Accounts, sessions: Sessions, limits: LoginLimits, *, is_secure: bool) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._limits = limits
        self._is_secure = is_secure

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints, by name."""
        return {"login_page": self._page, "login_form": self._log_in, "logout_form": self._log_out}

    def _page(self, exchange: Exchange) -> Response:
        if exchange.account is not None:
            return RedirectResponse("/", 303)
        return self._form(exchange)

    def _log_in(self, exchange: Exchange) -> Response:
        form = exchange.body
        # The empty text equals a cookie that is missing.
        gateway.check_csrf(form.get(gateway.CSRF_FIELD, ""), exchange.nonce or secrets.token_urlsafe())
        verified = self._verified(exchange, form.get("name", ""), form.get("password", ""))
        cookie = self._sessions.begin(verified, replacing=exchange.cookie) if verified else None
        if cookie is None:
            error = UsageError("login-failed", "The name and password, or the token, are wrong.")
            return self._form(exchange, error, 401)
        response = RedirectResponse("/", 303)
        self._set(response, SESSION_COOKIE, cookie, int(AGE_MAX_S))
        self._set(response, LOGIN_COOKIE, "", 0)
        return response

    def _verified(self, exchange: Exchange, name: str, secret: str) -> Verified | None:
        """Find the account; without a name the secret is a token."""
        of = name or _TOKENS + exchange.address
        self._limits.begin(exchange.address, of)
        verified = self._accounts.verify(name, secret)
        if verified is not None:
            self._limits.succeed(exchange.address, of)
        return verified

    def _log_out(self, exchange: Exchange) -> Response:
        self._sessions.end(exchange.cookie)
        response = RedirectResponse("/login", 303)
        self._set(response, SESSION_COOKIE, "", 0)
        return response

    def _form(self, exchange: Exchange, error: UsageError | None = None, status: int = 200) -> Response:
        nonce = secrets.token_urlsafe(32)
        response = rendering.page("login.html", exchange, status, nonce=nonce, error=error)
        self._set(response, LOGIN_COOKIE, nonce, FORM_AGE_MAX_S)
        return response

    def _set(self, response: Response, name: str, value: str, age_s: int) -> None:
        response.set_cookie(
            (gateway.HOST_PREFIX if self._is_secure else "") + name,
            value,
            max_age=age_s,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )

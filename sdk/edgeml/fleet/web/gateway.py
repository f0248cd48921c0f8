"""The gateway: every request passes these checks, in this order, before its endpoint runs.

Host and origin, account, role, query, body, CSRF token. Endpoints run in a few threads of the dashboard's own. So a
slow one delays other requests, never the delivery of models. One that waits for a device is a coroutine, in no thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edgeml.fleet.web import http_errors
from edgeml.fleet.web.accounts import Account, Accounts
from edgeml.fleet.web.exchange import HEADERS, Exchange, json
from edgeml.fleet.web.operations import EVENTS, JSON, OPERATIONS, Failed, Operation, Refusal
from edgeml.fleet.web.sessions import Session, Sessions
from edgeml.fleet.web.threads import Threads
from edgeml_core import decoding
from edgeml_core.errors import EdgemlError, InternalError, OverloadedError, UsageError
from edgeml_io import http_hosts

_log = logging.getLogger(__name__)

#: Bytes of a request's body: the largest is a form with a password.
BODY_MAX_BYTES: Final = 16 * 1024
#: Seconds in which a body must arrive.
BODY_MAX_S: Final = 10.0
SESSION_COOKIE: Final = "edgeml-session"
LOGIN_COOKIE: Final = "edgeml-login"
#: A browser takes a cookie of this prefix from this host over TLS alone, for all paths.
HOST_PREFIX: Final = "__Host-"
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"
#: Of the requests that an open page makes by itself: they are no use, and its session ends without another one.
LIVE_HEADER: Final = "x-live"
_FORM: Final = "application/x-www-form-urlencoded"

Endpoint = Callable[[Exchange], Any]
ErrorPage = Callable[[Exchange, EdgemlError, int], Response]


class Gateway:
    """The application.

    Args:
        accounts: who may do what.
        sessions: of browsers.
        endpoints: by the names that the operations have for them.
        error_page: makes the page of an error.
        threads: run the endpoints.
        is_secure: whether browsers reach the server over TLS alone: so do cookies.
        is_local: whether requests must name this machine, against DNS rebinding.
    """

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        endpoints: Mapping[str, Endpoint],
        error_page: ErrorPage,
        threads: Threads,
        *,
        is_secure: bool,
        is_local: bool,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._endpoints = endpoints
        self._error_page = error_page
        self._prefix = HOST_PREFIX if is_secure else ""
        self._is_local = is_local
        self._threads = threads
        routes = [Route(it.path, self._handler(it), methods=[it.method]) for it in OPERATIONS]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown, Exception: _crashed})
        # Starlette would answer /devices/ itself: past the checks, and with an address made of the Host header.
        self.app.router.redirect_slashes = False

    def _handler(self, operation: Operation) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            bare = _exchange(request, self._prefix)
            try:
                exchange = await self._checked(request, operation, bare)
                endpoint = self._endpoints[operation.endpoint]
                if iscoroutinefunction(endpoint):
                    answer = await endpoint(exchange)
                else:
                    answer = await self._threads.run(lambda: endpoint(exchange), is_act=operation.is_act)
                response = answer if isinstance(answer, Response) else json(answer)
            except ClientDisconnect:
                response = Response(status_code=400)
            except EdgemlError as error:
                response = self._failed(operation, bare, error)
            return _with_headers(response)

        return handle

    async def _checked(self, request: Request, operation: Operation, bare: Exchange) -> Exchange:
        _check_origin(request, is_local=self._is_local)
        is_use = LIVE_HEADER not in request.headers and EVENTS not in operation.gives
        account, session = await self._threads.run(lambda: self._identify(request, bare.cookie, is_use=is_use))
        if operation.role is not None:
            _check_role(account, operation)
        query, body = _query(request, operation), await _body(request, operation)
        if session is not None and request.method not in {"GET", "HEAD"}:
            sent = body.get(CSRF_FIELD, "") if operation.is_form else request.headers.get(CSRF_HEADER, "")
            check_csrf(sent, session.csrf)
        return dataclasses.replace(bare, query=query, body=body, account=account, session=session)

    def _identify(self, request: Request, cookie: str, *, is_use: bool) -> tuple[Account | None, Session | None]:
        """Find the account of a token, else of a session. A wrong token is refused, also where none is needed.

        Other schemes are those of a proxy in front, whose password a browser sends with each request.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            account = self._accounts.by_token(token)
            if account is None:
                raise UsageError("unauthorized", "the token isn't valid", "send the header Authorization: Bearer TOKEN")
            return account, None
        session = self._sessions.find(cookie, is_use=is_use) if cookie else None
        account = self._accounts.by_name(session.account) if session else None
        return (account, session) if account else (None, None)

    def _failed(self, operation: Operation, exchange: Exchange, error: EdgemlError) -> Response:
        status = http_errors.status_of(error.code)
        if not operation.is_page:
            response = _refusal(error, status)
        elif error.code == "unauthorized" and exchange.is_fragment:
            response = Response(headers={"HX-Redirect": "/login"})
        elif error.code == "unauthorized":
            response = RedirectResponse("/login", 303)
        else:
            response = self._error_page(exchange, error, status)
        if status == http_errors.status_of("unauthorized"):
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, OverloadedError):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    async def _unknown(self, request: Request, error: Exception) -> Response:
        """Refuse a path or method that isn't served."""
        status = error.status_code if isinstance(error, HTTPException) else 404
        failure = UsageError("route-unknown", f"nothing is served at {request.method} {request.url.path}")
        response = _refusal(failure, status)
        response.headers.update(getattr(error, "headers", None) or {})
        return _with_headers(response)


def _crashed(request: Request, _: Exception) -> Response:
    """Answer a request whose endpoint failed unexpectedly; Starlette raises the exception again, for the log."""
    _log.error("the dashboard failed at %s %s", request.method, request.url.path)
    error = InternalError("internal", "the dashboard failed; the host's log has the details")
    return _with_headers(_refusal(error, 500))


def check_csrf(sent: str, expected: str) -> None:
    """Check the CSRF token of a form or request.

    Raises:
        UsageError: `form-expired`.
    """
    if not hmac.compare_digest(sent.encode(), expected.encode()):
        raise UsageError("form-expired", "the form is no longer valid", "load the page again and repeat it")


def _exchange(request: Request, prefix: str) -> Exchange:
    """Make the exchange of a request that isn't checked yet."""
    return Exchange(
        params=request.path_params,
        query=decoding.convert({}, OPERATIONS[0].query),
        cookie=request.cookies.get(prefix + SESSION_COOKIE, ""),
        nonce=request.cookies.get(prefix + LOGIN_COOKIE, ""),
        address=request.client.host if request.client else "",
        is_fragment=request.headers.get("hx-request") == "true",
        last_event=request.headers.get("last-event-id", ""),
    )


def _check_origin(request: Request, *, is_local: bool) -> None:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if is_local and not http_hosts.names_local(host):
        hint = "use http://localhost or 127.0.0.1, or serve with --http-cert; behind a proxy with --http-insecure"
        raise UsageError("origin-refused", "this server answers to names of this machine only", hint)
    if origin is not None and http_hosts.netloc(origin) != host:
        raise UsageError("origin-refused", "pages of other sites may not use this server")


def _check_role(account: Account | None, operation: Operation) -> None:
    if account is None:
        raise UsageError("unauthorized", "the request has no account", "log in, or send Authorization: Bearer TOKEN")
    if operation.role is not None and not account.role.permits(operation.role):
        message = f"{account.name} has the role {account.role}, and this needs {operation.role}"
        raise UsageError("forbidden", message, "ask an administrator of the fleet")


def _query(request: Request, operation: Operation) -> Any:  # noqa: ANN401 - the operation's type
    pairs = request.query_params.multi_items()
    if len(dict(pairs)) != len(pairs):
        raise UsageError("input-invalid", "a parameter of the query is given twice", "give each once")
    return converted(lambda: decoding.convert(dict(pairs), operation.query, strict=False), "query")


async def _body(request: Request, operation: Operation) -> Any:  # noqa: ANN401 - the operation's type
    takes: Any = operation.takes
    if takes is None and not operation.is_form:
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = _FORM if operation.is_form else JSON
    if kind != wanted:
        raise UsageError("content-unsupported", f"the body has the type {kind!r}, not {wanted}")
    raw = b""
    try:
        async with asyncio.timeout(BODY_MAX_S):
            async for part in request.stream():
                raw += part
                if len(raw) > BODY_MAX_BYTES:
                    raise UsageError("body-too-large", f"the body has more than {BODY_MAX_BYTES} bytes")
    except TimeoutError:
        raise UsageError("input-invalid", f"the body didn't arrive within {BODY_MAX_S:g} s") from None
    if operation.is_form:
        return converted(lambda: dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=20)), "form")
    return converted(lambda: decoding.from_json(raw, takes), "body")


def converted(convert: Callable[[], Any], what: str) -> Any:  # noqa: ANN401 - the type that is read
    """Return what is read; raises `UsageError` (`input-invalid`) for what can't be read."""
    try:
        return convert()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError("input-invalid", f"the {what} can't be read: {error}") from error


def _refusal(error: EdgemlError, status: int) -> Response:
    refusal = Refusal(code=error.code, message=error.message, hint=error.hint)
    return json(Failed(error=refusal), status)


def _with_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response

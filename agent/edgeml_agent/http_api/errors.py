"""Errors over HTTP: the status of each code, and the body in the form of the API that the client asked.

No internals of the server stand in any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from starlette.responses import Response

from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.openai import errors as openai
from edgeml_core.errors import EdgemlError, OverloadedError

#: The HTTP status of each code that a client can cause; any other code is 500.
STATUS: Final[dict[str, int]] = {
    "input-invalid": 400,
    "prompt-too-long": 400,
    "unauthorized": 401,
    "origin-refused": 403,
    "model-unknown": 404,
    "route-unknown": 404,
    "body-too-large": 413,
    "content-unsupported": 415,
    "overloaded": 429,
    "client-left": 499,
    "deadline-exceeded": 504,
}
_PROTOCOL_ROOT: Final = "/v2"


class ErrorForm(NamedTuple):
    """How an API writes an error: the type of the body, and a function of the error and the HTTP status to it."""

    schema: type
    body: Callable[[EdgemlError, int], object]


def _own(failure: EdgemlError, _: int) -> object:
    return {"error": failure.to_dict()}


def _protocol(failure: EdgemlError, _: int) -> object:
    return {"error": f"{failure.message}; {failure.hint}"}


OWN: Final = ErrorForm(schemas.Refusal, _own)
PROTOCOL: Final = ErrorForm(schemas.ProtocolRefusal, _protocol)
OPENAI: Final = ErrorForm(schemas.OpenAIRefusal, openai.body)


def form_of_unknown(path: str) -> ErrorForm:
    """The form at a path that no operation has: clients of the Open Inference Protocol read errors below `/v2`."""
    is_protocol = path == _PROTOCOL_ROOT or path.startswith(f"{_PROTOCOL_ROOT}/")
    return PROTOCOL if is_protocol else OWN


def status_of(failure: EdgemlError) -> int:
    """The HTTP status of an error."""
    return STATUS.get(failure.code, 500)


def response(form: ErrorForm, failure: EdgemlError, status: int | None = None) -> Response:
    """Make the response to a request that failed.

    Args:
        status: the HTTP status, where it isn't the one of the error's code.
    """
    code = status or status_of(failure)
    made = responses.json(form.body(failure, code), code)
    if isinstance(failure, OverloadedError):
        made.headers["Retry-After"] = str(failure.retry_after_s)
    if failure.code == "unauthorized":
        made.headers["WWW-Authenticate"] = "Bearer"
    return made

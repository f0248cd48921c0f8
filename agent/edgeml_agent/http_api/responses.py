"""Answers as bytes: JSON, and errors in the shape of the door that they leave through. No internals in any of them."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from edgeml_agent.http_api import schemas
from edgeml_agent.http_api.asgi import headers
from edgeml_agent.http_api.openai import errors
from edgeml_core.errors import EdgemlError, OverloadedError

#: The HTTP status of each code that can be a client's business; any other is 500.
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
#: Shorter answers cost a small board more time to compress than to send.
PACKED_MIN_BYTES: Final = 16 * 1024
PACKED_LEVEL: Final = 1
#: zlib's numbers for the two formats.
_WBITS: Final = {"gzip": 31, "deflate": 15}


class Json(Response):
    """JSON that is encoded already; its headers are written without the general case's detours."""

    def __init__(self, body: bytes, status: int) -> None:
        self.body, self.status_code, self.background = body, status, None
        # The type has no charset: kserve's client reads errors of exactly this type.
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def json(value: object, status: int = 200) -> Response:
    """`value` as JSON; NaN and infinities, which JSON lacks, become null."""
    return json_bytes(msgspec.json.encode(value), status)


def json_bytes(body: bytes, status: int = 200) -> Response:
    """JSON that was encoded elsewhere."""
    return Json(body, status)


def packed(response: Response, scope: Scope) -> Response:
    """The response, compressed where it is long and the client of that request reads that; not in streams."""
    if len(response.body) < PACKED_MIN_BYTES:
        return response
    accepted = headers(scope).get(b"accept-encoding", "")
    known = (part.partition(";") for part in accepted.lower().split(","))
    encodings = {name.strip() for name, _, weight in known if weight.replace(" ", "") not in {"q=0", "q=0.0"}}
    body = bytes(response.body)
    if encodings & {"gzip", "deflate"}:
        name = "gzip" if "gzip" in encodings else "deflate"
        packer = zlib.compressobj(PACKED_LEVEL, wbits=_WBITS[name])
        response.body = packer.compress(body) + packer.flush()
        response.headers["content-length"] = str(len(response.body))
        response.headers["content-encoding"] = name
    return response


def status_of(failure: EdgemlError) -> int:
    """The HTTP status of an error."""
    return STATUS.get(failure.code, 500)


def refusal_form(path: str) -> type:
    """The form of the errors at a path: its door's."""
    if path in errors.PATHS:
        return schemas.OpenAIRefusal
    is_protocol = path == _PROTOCOL_ROOT or path.startswith(f"{_PROTOCOL_ROOT}/")
    return schemas.ProtocolRefusal if is_protocol else schemas.Refusal


def error(path: str, failure: EdgemlError, status: int | None = None) -> Response:
    """The response to a request for `path` that failed.

    Args:
        failure: below `/v2` its text goes out as the Open Inference Protocol wants it, at OpenAI's door all its parts
            in OpenAI's form, elsewhere in our own.
        status: where it isn't the one of the code.
    """
    code = status or status_of(failure)
    form = refusal_form(path)
    if form is schemas.OpenAIRefusal:
        body: object = errors.body(failure, code)
    elif form is schemas.ProtocolRefusal:
        body = {"error": f"{failure.message}; {failure.hint}"}
    else:
        body = {"error": failure.to_dict()}
    response = json(body, code)
    if isinstance(failure, OverloadedError):
        response.headers["Retry-After"] = str(failure.retry_after_s)
    if failure.code == "unauthorized":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response

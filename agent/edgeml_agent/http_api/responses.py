"""Answers as bytes: JSON, compressed where it pays. Errors are made in `errors`."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgeml_agent.http_api.request import Request

#: Bytes; a small board takes more time to compress a shorter answer than to send it.
PACKED_MIN_BYTES: Final = 16 * 1024
#: zlib's fastest; a higher level takes several times as long for a tenth fewer bytes.
PACKED_LEVEL: Final = 1
#: zlib's numbers for the two formats.
_WBITS: Final = {"gzip": 31, "deflate": 15}

#: Answers the requests of an operation.
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Json(Response):
    """JSON that is encoded already; its headers are written without the steps of the general case."""

    def __init__(self, body: bytes, status: int) -> None:
        self.body, self.status_code, self.background = body, status, None
        # The type has no charset: kserve's client reads errors of exactly this type.
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def json(value: object, status: int = 200) -> Response:
    """Encode `value` as JSON; NaN and infinities, which JSON lacks, become null."""
    return Json(msgspec.json.encode(value), status)


def json_bytes(body: bytes, status: int = 200) -> Response:
    """Wrap JSON that was encoded elsewhere."""
    return Json(body, status)


def packed(response: Response, request: Request) -> Response:
    """Compress a long response, if its client reads that; streams are left as they are."""
    if len(response.body) < PACKED_MIN_BYTES:
        return response
    accepted = request.headers.get(b"accept-encoding", "")
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

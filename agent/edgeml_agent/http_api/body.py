"""Request bodies: read within their limits, and the parts of a form. JSON and tensors are parsed by the APIs."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from email.message import Message as MimeHeaders
from email.parser import BytesHeaderParser
from functools import partial
from typing import Final, TypeVar

from starlette.types import Message

from edgeml_agent.http_api.request import Request
from edgeml_core.errors import UsageError

#: Bytes of one body, packed or not; a photograph of 12 megapixels, or a minute of sound.
BODY_MAX_BYTES: Final = 16 * 1024 * 1024
#: Seconds between two pieces of a body; a slow mobile connection pauses for less.
PIECE_MAX_S: Final = 10.0
#: Seconds for a whole body: the longest one comes in them at 28 kB/s. Bodies under way take memory from others.
WHOLE_MAX_S: Final = 600.0
#: Bytes; work on more leaves the event loop, which it would block for a millisecond or two.
ASIDE_MIN_BYTES: Final = 256 * 1024
#: Parts of a form; a recording of speech comes with a dozen options.
FORM_PARTS_MAX: Final = 16
#: Bytes in front of a part's content: its name, its file's name and its type.
FORM_HEAD_MAX_BYTES: Final = 8 * 1024
T = TypeVar("T")
#: zlib's numbers for the formats; "deflate" is zlib's (RFC 9110).
_WBITS: Final = {"identity": 0, "gzip": 31, "deflate": 15}
_LINE_END: Final = b"\r\n"


async def read(request: Request) -> bytes:
    """Read the whole body. Each limit of bodies is checked here.

    Raises:
        UsageError: `body-too-large`, packed or unpacked; `content-unsupported` for a packing other than gzip or
            deflate; `input-invalid` when it breaks off.
        OverloadedError: the bodies of all requests together are too long.
    """
    encoding = request.headers.get(b"content-encoding", "identity").strip().lower()
    if encoding not in _WBITS:
        raise UsageError("content-unsupported", f"bodies packed as {encoding!r} are not read", "send gzip or deflate")
    declared = request.headers.get(b"content-length", "")
    if declared.isdecimal() and int(declared) > BODY_MAX_BYTES:
        raise _too_large()
    body = request.arrived
    if body is None:
        body = await _received(request)
    else:
        request.hold(len(body))
    if encoding == "identity":
        return body
    unpacked = await aside(BODY_MAX_BYTES, partial(_unpacked, body, _WBITS[encoding]))
    request.hold(len(unpacked))
    return unpacked


async def _received(request: Request) -> bytes:
    """Receive the body, and count its bytes."""
    pieces, size_bytes, is_whole = [], 0, False
    until_s = asyncio.get_running_loop().time() + WHOLE_MAX_S
    while not is_whole:
        message = await _in_time(request, until_s)
        if message["type"] == "http.disconnect":
            raise UsageError("input-invalid", "the request broke off")
        pieces.append(message.get("body", b""))
        request.hold(len(pieces[-1]))
        size_bytes += len(pieces[-1])
        if size_bytes > BODY_MAX_BYTES:
            raise _too_large()
        is_whole = not message.get("more_body", False)
    return b"".join(pieces)


async def _in_time(request: Request, until_s: float) -> Message:
    """Receive the next piece of the body, until `until_s` on the event loop's clock."""
    piece_s = asyncio.get_running_loop().time() + PIECE_MAX_S
    try:
        async with asyncio.timeout_at(min(piece_s, until_s)):
            return await request.receive()
    except TimeoutError as error:
        why = f"nothing came for {PIECE_MAX_S:.0f} s" if piece_s < until_s else f"it took more than {WHOLE_MAX_S:.0f} s"
        message = f"the request broke off: {why}"
        raise UsageError("input-invalid", message, "send it in one go") from error


async def aside(size_bytes: int, work: Callable[[], T]) -> T:
    """Do the work; in a thread, where it would block the event loop."""
    return work() if size_bytes < ASIDE_MIN_BYTES else await asyncio.to_thread(work)


def _too_large() -> UsageError:
    return UsageError("body-too-large", f"the body is longer than {BODY_MAX_BYTES} bytes", "send fewer items")


def _unpacked(body: bytes, wbits: int) -> bytes:
    """Unpack a body, and stop at the limit of bodies."""
    unpacker = zlib.decompressobj(wbits)
    try:
        found = unpacker.decompress(body, BODY_MAX_BYTES)
    except zlib.error as error:
        raise UsageError("input-invalid", f"the body can't be unpacked: {error}") from error
    if unpacker.unconsumed_tail:
        raise _too_large()
    if not unpacker.eof:
        raise UsageError("input-invalid", "the packed body is incomplete", "send all of it")
    if unpacker.unused_data:
        message = f"{len(unpacker.unused_data)} bytes follow the packed body"
        raise UsageError("input-invalid", message, "pack the body as a whole, in one member")
    return found


def form_field(body: bytes, type_header: str, name: str) -> bytes:
    """Return the content of one part of a `multipart/form-data` body.

    Raises:
        UsageError: `input-invalid`, when the form is malformed or doesn't have the part exactly once.
    """
    found = [content for part, content in form(body, type_header) if part == name]
    if len(found) != 1:
        raise UsageError("input-invalid", f"the form needs one file {name!r}", f"for example curl -F {name}=@FILE")
    return found[0]


def form(body: bytes, type_header: str) -> list[tuple[str, bytes]]:
    """Return the names and contents of the parts of a `multipart/form-data` body, in order.

    Source: RFC 7578 and RFC 2046, section 5.1.1.

    Raises:
        UsageError: `input-invalid`, when the form is malformed or has more than `FORM_PARTS_MAX` parts.
    """
    header = MimeHeaders()
    header["Content-Type"] = type_header
    boundary = header.get_boundary()
    if not boundary:
        raise UsageError("input-invalid", "the form has no boundary", "let the HTTP client write Content-Type itself")
    delimiter = _LINE_END + b"--" + boundary.encode("ascii", "replace")
    parts = (_LINE_END + body).split(delimiter, FORM_PARTS_MAX + 1)[1:]
    if not parts or not parts[-1].startswith(b"--"):
        raise UsageError("input-invalid", f"the form is incomplete or has more than {FORM_PARTS_MAX} parts")
    return [named for part in parts[:-1] for named in _named(part)]


def _named(part: bytes) -> list[tuple[str, bytes]]:
    """The part's name and content; nothing, if it has no name."""
    end = part.find(_LINE_END + _LINE_END, 0, FORM_HEAD_MAX_BYTES)
    if end < 0:
        return []
    headers = BytesHeaderParser().parsebytes(part[:end].lstrip(_LINE_END))
    name = headers.get_param("name", header="content-disposition")
    return [(name, part[end + 2 * len(_LINE_END) :])] if isinstance(name, str) else []

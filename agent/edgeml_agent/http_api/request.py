"""One HTTP request: its headers, the parts of its path, and the memory that its body takes.

It reads nothing by itself: `body.read` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive, Scope

from edgeml_core.errors import OverloadedError, UsageError

#: Bytes that the bodies of all requests under way may take together; four of the longest ones.
BODIES_MAX_BYTES: Final = 64 * 1024 * 1024
#: Bytes of a body that is read beyond that limit, too: those of as many requests as a server takes are 14 MiB.
SMALL_BODY_BYTES: Final = 64 * 1024
#: Seconds until a client should try again; a body is read in less.
RETRY_AFTER_S: Final = 1
#: Headers that may be sent once: two of them mean one thing to this server and another one to a proxy before it.
SINGLE_HEADERS: Final = (b"host", b"authorization", b"content-encoding", b"content-type", b"transfer-encoding")
#: In a request's scope, set by the connection: the whole body, where it has arrived; nothing needs a timer then.
BODY: Final = "edgeml.body"
#: In a request's scope, set by the gateway: the request is cancelled when its client disconnects.
IS_CANCELLABLE: Final = "edgeml.is_cancellable"
#: In a request's scope, set by the connection: there are too many requests at a time.
HAS_NO_ROOM: Final = "edgeml.has_no_room"
#: In a request's scope, set by the connection: the client has disconnected.
HAS_LEFT: Final = "edgeml.has_left"


class BodyMemory:
    """The bytes that the bodies of all requests under way take together."""

    def __init__(self) -> None:
        self.held_bytes = 0


class Request:
    """A request on its way through the gateway.

    Args:
        scope: as ASGI defines it.
        receive: returns the next message of the request, as ASGI defines it.
        params: the parts of the path that the route names.
        memory: shared by all requests of the server.

    Attributes:
        headers: by name in lower case; of equal names the first.
    """

    __slots__ = ("_held_bytes", "_memory", "headers", "params", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive, params: Mapping[str, str], memory: BodyMemory) -> None:
        self.scope = scope
        self.receive = receive
        self.params = params
        self.headers: Mapping[bytes, str] = {
            name: value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        self._memory = memory
        self._held_bytes = 0

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        path: str = self.scope["path"]
        return path

    @property
    def client(self) -> Any:  # noqa: ANN401 - ASGI leaves open what it is
        """The address and port of the client's connection; None where the server doesn't know them."""
        return self.scope.get("client")

    @property
    def arrived(self) -> bytes | None:
        """The whole body, where it has arrived."""
        return self.scope.get(BODY)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case; empty when none was sent."""
        return self.headers.get(b"content-type", "").partition(";")[0].strip().lower()

    def check_head(self) -> None:
        """Refuse a head that two readers may understand differently (RFC 9112, sections 3.2 and 6.1).

        Raises:
            UsageError: `input-invalid`, when a header of `SINGLE_HEADERS` comes twice, or the body is encoded for its
                transfer in another way than in chunks.
        """
        sent = self.scope["headers"]
        if len(sent) != len(self.headers):
            names = [name for name, _ in sent]
            if twice := [name.decode() for name in SINGLE_HEADERS if names.count(name) > 1]:
                raise UsageError("input-invalid", f"the header {twice[0]!r} was sent twice", "send it once")
        encoding = self.headers.get(b"transfer-encoding", "chunked")
        if encoding.strip().lower() != "chunked":
            hint = "send the body in chunks or with its length; to compress it, send Content-Encoding"
            raise UsageError("input-invalid", f"the transfer encoding {encoding!r} is not read", hint)

    def check_room(self) -> None:
        """Check that the connection found room for this request.

        Raises:
            OverloadedError: there are too many requests at a time.
        """
        if HAS_NO_ROOM in self.scope:
            what = "the server has as many requests as it takes at a time"
            raise OverloadedError("overloaded", what, "try again soon", retry_after_s=RETRY_AFTER_S)

    def hold(self, size_bytes: int) -> None:
        """Count a part of the body, or the unpacked body.

        Raises:
            OverloadedError: the bodies of all requests together are too long, and this one isn't small.
        """
        self._held_bytes += size_bytes
        self._memory.held_bytes += size_bytes
        if self._memory.held_bytes > BODIES_MAX_BYTES and self._held_bytes > SMALL_BODY_BYTES:
            what = f"the bodies of all requests together are longer than {BODIES_MAX_BYTES} bytes"
            raise OverloadedError("overloaded", what, "try again soon", retry_after_s=RETRY_AFTER_S)

    def release(self) -> None:
        """Return the memory of the body; the request is answered."""
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0

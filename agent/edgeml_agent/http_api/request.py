"""One HTTP request: its headers, the parts of its path, and the memory that its body takes.

It reads nothing by itself: `body.read` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive, Scope

from edgeml_core.errors import OverloadedError

#: Bytes that the bodies of all requests under way may take together; four of the longest ones.
BODIES_MAX_BYTES: Final = 64 * 1024 * 1024
#: Seconds until a client should try again; a body is read in less.
RETRY_AFTER_S: Final = 1
#: In a request's scope, set by the connection: the whole body, where it has arrived; nothing needs a timer then.
BODY: Final = "edgeml.body"
#: In a request's scope, set by the gateway: the request is cancelled when its client disconnects.
IS_CANCELLABLE: Final = "edgeml.is_cancellable"
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

    def hold(self, size_bytes: int) -> None:
        """Count a part of the body.

        Raises:
            OverloadedError: the bodies of all requests together are too long.
        """
        self._held_bytes += size_bytes
        self._memory.held_bytes += size_bytes
        if self._memory.held_bytes > BODIES_MAX_BYTES:
            what = f"the bodies of all requests together are longer than {BODIES_MAX_BYTES} bytes"
            raise OverloadedError("overloaded", what, "try again soon", retry_after_s=RETRY_AFTER_S)

    def release(self) -> None:
        """Return the memory of the body; the request is answered."""
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0

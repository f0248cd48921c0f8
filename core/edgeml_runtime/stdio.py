"""One request on stdin, one reply on stdout, both msgpack: the programs of edgeml that run in a child process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

Request = TypeVar("Request", bound=msgspec.Struct)


def answer(kind: type[Request], run: Callable[[Request], msgspec.Struct]) -> int:
    """Answer one request. Output of a runtime goes to stderr, so that stdout has the reply alone.

    Args:
        kind: the type of the request.
        run: makes the reply.

    Returns:
        The exit code.

    Raises:
        msgspec.MsgspecError: stdin has no such request.
    """
    reply_to = os.dup(1)
    os.dup2(2, 1)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=kind)
    with os.fdopen(reply_to, "wb") as out:
        out.write(msgspec.msgpack.encode(run(request)))
    return 0

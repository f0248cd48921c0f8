"""How a program of this package speaks: one request on stdin, one reply on stdout, both msgpack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

Request = TypeVar("Request", bound=msgspec.Struct)


def answer(kind: type[Request], run: Callable[[Request], msgspec.Struct]) -> int:
    """Answer the request of type `kind`. Whatever a runtime prints goes to stderr: stdout carries the reply alone.

    Returns:
        The exit code.
    """
    reply_to = os.dup(1)
    os.dup2(2, 1)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=kind)
    with os.fdopen(reply_to, "wb") as out:
        out.write(msgspec.msgpack.encode(run(request)))
    return 0

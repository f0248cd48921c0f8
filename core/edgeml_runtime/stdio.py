"""Requests on stdin, replies on stdout, both msgpack: the programs of edgeml that run in a child process.

`answer` is for a program that takes one request. `converse` is for one that stays up: each of its messages is a frame,
its length in `LENGTH_BYTES` bytes (big-endian) and then its bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from edgeml_core import decoding

#: Bytes of a frame's length.
LENGTH_BYTES: Final = 8
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
    with _replies() as out:
        request = decoding.from_msgpack(sys.stdin.buffer.read(), kind)
        out.write(msgspec.msgpack.encode(run(request)))
    return 0


def converse(kind: Any, run: Callable[[Any], msgspec.Struct]) -> int:  # noqa: ANN401 -- a union of structs has no type
    """Answer requests until stdin ends, as `answer` does one.

    Args:
        kind: the type of the requests, or a union of tagged ones.
        run: makes the reply to one request.

    Returns:
        The exit code.
    """
    with _replies() as out:
        for message in _frames(sys.stdin.buffer):
            out.write(frame(msgspec.msgpack.encode(run(decoding.from_msgpack(message, kind)))))
            out.flush()
    return 0


def frame(message: bytes) -> bytes:
    """Put a message's length before it."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def _frames(source: BinaryIO) -> Iterator[bytes]:
    while length := source.read(LENGTH_BYTES):
        yield source.read(int.from_bytes(length, "big"))


def _replies() -> BinaryIO:
    """Keep stdout for replies, and redirect all other output to stderr."""
    reply_to = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(reply_to, "wb")

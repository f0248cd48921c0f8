"""JSON, MessagePack and parsed values as the types that are declared for them, in any thread.

msgspec prepares a type when it first decodes one, and sets it down before its fields are ready: a second thread that
decodes the type meanwhile ends the process (SIGSEGV; seen with 0.22.0). So types are prepared here, by one thread at a
time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, Final, TypeVar, cast

import msgspec

T = TypeVar("T")

_lock: Final = Lock()


def from_json(data: bytes | bytearray | memoryview | str, kind: type[T]) -> T:
    """Decode JSON.

    Raises:
        msgspec.DecodeError: the text is no JSON; as `msgspec.ValidationError`, where it is no `kind`.

    >>> from_json(b'{"a": 1}', dict[str, int])
    {'a': 1}
    """
    decoder: msgspec.json.Decoder[T] = _json_decoder(cast("Any", kind))
    return decoder.decode(data)


def from_msgpack(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Decode MessagePack; raises as `from_json`."""
    decoder: msgspec.msgpack.Decoder[T] = _msgpack_decoder(cast("Any", kind))
    return decoder.decode(data)


def convert(
    value: object,
    kind: type[T],
    *,
    strict: bool = True,
    str_keys: bool = False,
    dec_hook: Callable[[type, Any], object] | None = None,
) -> T:
    """Make a value of `kind` from parsed data, with the options of `msgspec.convert`.

    Raises:
        msgspec.ValidationError: the value is no `kind`.

    >>> convert({"a": "1"}, dict[str, int], strict=False)
    {'a': 1}
    """
    _msgpack_decoder(cast("Any", kind))
    return msgspec.convert(value, kind, strict=strict, str_keys=str_keys, dec_hook=dec_hook)


@cache
def _json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any type, also list[str]
    with _lock:
        return msgspec.json.Decoder(kind)


@cache
def _msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:  # noqa: ANN401 - any type, also list[str]
    with _lock:
        return msgspec.msgpack.Decoder(kind)

"""JSON in request bodies: decoded when its cost is known to be small. Every API decodes here.

A byte of JSON can become 30 bytes of objects, and nothing else runs in this process while it is decoded. So arrays,
objects and values are counted before, by their characters; those within texts count, too.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, overload

import numpy as np

from edgeml_core import decoding
from edgeml_core.errors import UsageError

#: Arrays and objects in one body; each takes about 100 bytes. A picture of 384 pixels has 1,155 as nested arrays.
CONTAINERS_MAX: Final = 64 * 1024
#: Values in one body; each takes about 32 bytes. 30 s of sound at 16 kHz are 480,000.
VALUES_MAX: Final = 512 * 1024
#: Bytes that are counted at a time, to take little memory.
_COUNTED_BYTES: Final = 256 * 1024
_OPENING: Final = b"[{"
_SEPARATOR: Final = b","
T = TypeVar("T")


@overload
def decode(body: bytes | memoryview) -> Any: ...  # noqa: ANN401 - any JSON


@overload
def decode(body: bytes | memoryview, kind: type[T]) -> T: ...


def decode(body: bytes | memoryview, kind: Any = Any) -> Any:
    """Decode JSON.

    Args:
        kind: a type that msgspec knows.

    Raises:
        UsageError: `body-too-large`, when it has too many arrays and objects, or values.
        ValueError: it isn't JSON of that type.
    """
    if len(body) > CONTAINERS_MAX:  # fewer bytes can't have too many of them
        check_cost(body)
    try:
        return decoding.from_json(body, kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_cost(body: bytes | memoryview) -> None:
    """Check the numbers of arrays and objects, and of values, in JSON.

    Raises:
        UsageError: `body-too-large`.
    """
    if _count(body, _OPENING) > CONTAINERS_MAX:
        raise _too_costly(f"{CONTAINERS_MAX} arrays and objects")
    if _count(body, _SEPARATOR) > VALUES_MAX:
        raise _too_costly(f"{VALUES_MAX} values")


def _too_costly(most: str) -> UsageError:
    hint = "send fewer items, a picture or a sound as a file in base64, or tensors in binary by /v2"
    return UsageError("body-too-large", f"the JSON has more than {most}", hint)


def _count(body: bytes | memoryview, characters: bytes) -> int:
    whole = np.frombuffer(body, np.uint8)
    parts = (whole[start : start + _COUNTED_BYTES] for start in range(0, len(whole), _COUNTED_BYTES))
    return sum(int(np.count_nonzero(part == character)) for part in parts for character in characters)

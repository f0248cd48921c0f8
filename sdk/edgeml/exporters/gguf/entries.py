"""Entries of a GGUF file's metadata that begin alike, read by kind of value."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from edgeml.exporters.gguf.container import Container, Scalar, Value, unreadable, unsupported
from edgeml_core.errors import UsageError

#: A whole number in the metadata, such as of tokens or the width of a layer; far above any model's.
NUMBER_MAX: Final = 100_000_000
#: Characters of a value in a message.
_SHOWN_CHARS: Final = 40
_T = TypeVar("_T", bound=Scalar)


class Entries:
    """The entries below a prefix, by the rest of their keys.

    Each method raises a UsageError for a value of another kind: `model-unreadable`, or `model-unsupported` for a list
    in the place of one value, which other architectures have.
    """

    def __init__(self, container: Container, prefix: str) -> None:
        self._path, self._prefix = container.path, prefix
        found = container.metadata.items()
        self.values: Mapping[str, Value] = {
            key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)
        }

    def check_known(self, known: Collection[str], fixed: Mapping[str, Value]) -> None:
        """Check that each entry is known, or has the one value that changes nothing.

        Raises:
            UsageError: `model-unsupported`, naming the entry.
        """
        for key, value in self.values.items():
            if key not in known and (key not in fixed or fixed[key] != value):
                raise unsupported(
                    self._path, f"has {self._prefix + key!r} = {_shown(value)}, which edgeml can't express"
                )

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = NUMBER_MAX) -> int:
        """Read a whole number within limits."""
        value = self.values.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self._other(key, value, f"a whole number from {least} to {most}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Read a finite number of at least 0."""
        value = self.values.get(key, default)
        if isinstance(value, bool | str | list | None) or not (math.isfinite(value) and value >= 0):
            raise self._other(key, value, "a number of at least 0")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Read a text."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self._other(key, value, "a text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._other(key, value, "true or false")
        return value

    def items(self, key: str, kind: type[_T]) -> list[_T]:
        """Read a list of one kind."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise unreadable(self._path, f"has no list {self._prefix}{key}")
        found: list[_T] = [it for it in value if type(it) is kind]
        if len(found) != len(value):
            raise unreadable(self._path, f"has a list {self._prefix}{key} of others than {kind.__name__}")
        return found

    def _other(self, key: str, value: Value | None, expected: str) -> UsageError:
        if isinstance(value, list):
            return unsupported(self._path, f"has {_shown(value)} as {self._prefix}{key}, which takes {expected} here")
        found = f"has no {self._prefix}{key}" if value is None else f"has {self._prefix}{key} = {_shown(value)}"
        return unreadable(self._path, f"{found}; it takes {expected}")


def _shown(value: Value) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else repr(value)[:_SHOWN_CHARS]

"""Work that several targets share is done once: results by key, as long as one export lasts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Memo:
    """Results by key."""

    def __init__(self) -> None:
        self._done: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result for `key`, made when it is asked for first; what raises is tried again."""
        if key not in self._done:
            self._done[key] = make()
        return cast("T", self._done[key])

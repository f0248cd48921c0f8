"""Memoized results by key. One export uses it for work that several targets share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Memo:
    """Results by key."""

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result for `key`, from `make` at the first call; an error is not kept."""
        if key not in self._results:
            self._results[key] = make()
        return cast("T", self._results[key])

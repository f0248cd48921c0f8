"""Hypothesis for one part of a run: so many inputs by the run's seed, and the smallest that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz import campaign

T = TypeVar("T")


def each(inputs: st.SearchStrategy[T], count: int, check: Callable[[T], object]) -> None:
    """Check so many inputs."""

    @seed(campaign.SEED)
    @settings(
        max_examples=max(1, count),
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def drive(it: T) -> None:
        check(it)

    drive()

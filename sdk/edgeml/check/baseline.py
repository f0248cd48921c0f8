"""The baseline for drift: the device's counts, taken over the rows that the model is checked on.

The device's own code counts the answers of the model that ships, during the checks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeml_core import drift
from edgeml_core.drift import Baseline
from edgeml_core.drift import Source as RowsFrom
from edgeml_runtime.drift_features import RESOLUTIONS, Run, observations
from edgeml_runtime.model import Model


class Observations:
    """Counts of a model's answers to a data file."""

    def __init__(self, model: Model) -> None:
        self._manifest = model.manifest
        self._values: defaultdict[str, list[Any]] = defaultdict(list)
        self._rows = 0

    def add(self, run: Run) -> None:
        """Observe one run."""
        self._rows += len(run.items)
        for observation in observations(run, self._manifest):
            for name, value in observation.items():
                self._values[name].append(value)

    def baseline(self, rows_from: RowsFrom) -> Baseline | None:
        """Make the baseline that a device compares with; None after too few rows."""
        return drift.baseline(self._values, rows=self._rows, rows_from=rows_from, resolutions=RESOLUTIONS)


@contextmanager
def observe(model: Model) -> Iterator[Observations]:
    """Observe the runs of a model within the context."""
    observations, before = Observations(model), model.observed
    model.observed = observations.add
    try:
        yield observations
    finally:
        model.observed = before

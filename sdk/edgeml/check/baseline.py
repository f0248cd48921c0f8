"""The baseline for drift: what the device will count, counted here over the rows that the model is judged on.

It is made of the answers of the model that ships, by the device's code, while the checks ask for them anyway.
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


class Seen:
    """What was observed of a model's answers to a data file."""

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
        """What a device is to compare with; None after too few rows."""
        return drift.baseline(self._values, rows=self._rows, rows_from=rows_from, resolutions=RESOLUTIONS)


@contextmanager
def observed(model: Model) -> Iterator[Seen]:
    """Observe what a model is asked meanwhile."""
    seen, before = Seen(model), model.observed
    model.observed = seen.add
    try:
        yield seen
    finally:
        model.observed = before

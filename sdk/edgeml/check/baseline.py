"""The baseline for drift: the device's counts, taken over the rows that the model is checked on.

The device's own code counts the answers of the model that ships, during the checks.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeml_core import drift
from edgeml_core.drift import Baseline
from edgeml_core.drift import Source as RowsFrom
from edgeml_core.manifest import Manifest
from edgeml_runtime.drift_features import RESOLUTIONS, Run, observations
from edgeml_runtime.model import Model


class Observations:
    """Counts of a model's answers to a data file, by one thread or several."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._values: defaultdict[str, list[Any]] = defaultdict(list)
        self._rows = 0

    def add(self, run: Run) -> None:
        """Observe one run."""
        found = list(observations(run, self._manifest))
        with self._lock:
            self._rows += len(run.items)
            for name, value in (pair for it in found for pair in it.items()):
                self._values[name].append(value)

    def baseline(self, rows_from: RowsFrom) -> Baseline | None:
        """Make the baseline that a device compares with; None after too few rows."""
        return drift.baseline(self._values, rows=self._rows, rows_from=rows_from, resolutions=RESOLUTIONS)


@contextmanager
def observe(*models: Model) -> Iterator[Observations]:
    """Observe the runs of copies of one model within the context."""
    observations, before = Observations(models[0].manifest), [model.observed for model in models]
    for model in models:
        model.observed = observations.add
    try:
        yield observations
    finally:
        for model, observed in zip(models, before, strict=True):
            model.observed = observed

"""Drift of the served models: features of inputs and answers, counted into the bins of their cards' baselines.

Of each model and version the last few hundred items count, as two windows of counts; no item is kept. The features are
defined in `edgeml_runtime.drift_features`, the judgement in `edgeml_core.drift`. A model without a baseline is not
observed. Models' threads count, the event loop reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from edgeml_agent import log
from edgeml_agent.serve.metrics import Metric
from edgeml_core import drift
from edgeml_core.drift import Baseline, Drift, Shift
from edgeml_core.manifest import Manifest
from edgeml_runtime.drift_features import Run, observations

#: Items of a full window. The last full one and the one that is filling count, so 500 to 1000 items.
WINDOW_ITEMS: Final = 500
#: Observed runs, per second and after a pause; more are not observed, as observing would slow serving.
RUNS_PER_S: Final = 20.0
BURST_RUNS: Final = 200.0

Observer = Callable[[Run], object]


@dataclass
class _Window:
    """Counts over the bins of each quantity."""

    counts: dict[str, list[int]]
    items: int = 0

    @classmethod
    def empty(cls, baseline: Baseline) -> _Window:
        return cls({name: [0] * len(it.counts) for name, it in baseline.quantities.items()})


class DriftMonitor:
    """Counts the recent inputs and answers of one version of a model.

    Args:
        clock: seconds, which only go forward.
    """

    def __init__(self, manifest: Manifest, baseline: Baseline, clock: Callable[[], float] = time.monotonic) -> None:
        self.manifest: Final = manifest
        self._baseline = baseline
        self._clock = clock
        self._full, self._filling = _Window.empty(baseline), _Window.empty(baseline)
        self._credit_runs, self._credited_s = BURST_RUNS, clock()
        self._failed = False

    def __call__(self, run: Run) -> None:
        """Count a run, unless there are too many. Never raises: observing must not cost an answer."""
        now_s = self._clock()
        self._credit_runs = min(BURST_RUNS, self._credit_runs + (now_s - self._credited_s) * RUNS_PER_S)
        self._credited_s = now_s
        if self._credit_runs < 1:
            return
        self._credit_runs -= 1
        try:
            self._count(run)
        except Exception as error:  # noqa: BLE001 - the answer is right all the same
            if not self._failed:  # once, and only by its type: its message may have content
                log.event("not watched", model=self.manifest.name, error=type(error).__name__)
            self._failed = True

    def shifts(self) -> tuple[Mapping[str, Shift], int]:
        """How far each quantity has moved, and over how many items; empty while they are too few."""
        full, filling = self._full, self._filling
        counts = {
            name: [one + other for one, other in zip(full.counts[name], filling.counts[name], strict=True)]
            for name in self._baseline.quantities
        }
        return drift.compare(self._baseline, counts), full.items + filling.items

    def _count(self, run: Run) -> None:
        quantities = self._baseline.quantities
        for observation in observations(run, self.manifest):
            filling = self._filling
            for name, value in observation.items():
                if name in quantities:
                    filling.counts[name][quantities[name].bin(value)] += 1
            filling.items += 1
            if filling.items >= WINDOW_ITEMS:
                self._full, self._filling = filling, _Window.empty(self._baseline)


@dataclass
class Watches:
    """The monitors by model; a new version begins with empty counts."""

    _watches: dict[str, DriftMonitor] = field(default_factory=dict)

    def over(self, name: str, manifest: Manifest) -> Observer:
        """Return the observer of a model's runs: the same one when the version is only loaded again."""
        monitor, baseline = self._watches.get(name), manifest.card.baseline
        if monitor is not None and monitor.manifest == manifest:
            return monitor
        if not baseline:
            self._watches.pop(name, None)
            return _unobserved
        self._watches[name] = DriftMonitor(manifest, baseline)
        return self._watches[name]

    def drifts(self) -> dict[tuple[str, str], Drift]:
        """The drift of each model, by name and version, where enough items were observed."""
        judged = {(name, it.manifest.version): drift.drift(*it.shifts()) for name, it in self._watches.items()}
        return {key: found for key, found in judged.items() if found is not None}

    def metrics(self, served: Collection[str]) -> Iterator[Metric]:
        """The metrics of the models in `served`."""
        found = {name: it.shifts() for name, it in sorted(self._watches.items()) if name in served}
        indices = tuple(
            ("", {"model": name, "quantity": quantity}, round(shift.psi, 4))
            for name, (shifts, _) in found.items()
            for quantity, shift in shifts.items()
        )
        yield Metric("edgeml_drift_psi", "gauge", "Population stability index against the baseline.", indices)
        items = tuple(("", {"model": name}, observed) for name, (_, observed) in found.items())
        yield Metric("edgeml_drift_observed_items", "gauge", "The recent items that the index is computed of.", items)


def _unobserved(_: Run) -> None:
    """Ignore a run: there is no baseline to compare it with."""

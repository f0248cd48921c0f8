"""Figures of a race: times of all contenders, closeness of their outputs, and ratios to the fastest of edgeml's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_runtime.verify.golden import cosine
from export_parts.race import Result, ratio
from harness import host
from harness.figures import Aim, Figure

THREADS: Final = 2
PYTORCH: Final = "PyTorch eager fp32"

Pool = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The results of one race; the first contender is PyTorch, whose outputs are the reference."""

    title: str
    results: Sequence[Result]
    ours: Sequence[Result]
    pool: Pool

    @property
    def best(self) -> Result:
        """The fastest of edgeml's."""
        return min(self.ours, key=lambda it: it.p50_ms)

    def cosines(self) -> dict[str, list[float]]:
        """Compare each contender's outputs, row by row, with PyTorch's."""
        reference = self.pool(self.results[0].outputs)
        return {
            it.contender.name: [cosine(one, other) for one, other in zip(reference, self.pool(it.outputs), strict=True)]
            for it in self.results
        }

    def figures(self, aims: Mapping[str, Aim | None], aliases: Mapping[str, str] | None = None) -> Iterator[Figure]:
        """Yield the times, the cosines, and the ratio to each contender that `aims` names.

        Args:
            aims: the aim of a ratio by the contender's name; None for a ratio without an aim.
            aliases: names of contenders in the figures' names, where a contender's own name differs from run to run.
        """
        load, rounds = host.of_rounds([max(it) for it in self._other_cores()]), len(self.results[0].medians_ms)
        times_ms = {it.contender.name: round(it.p50_ms, 3) for it in self.results}
        note = f"{rounds} rounds; {self.best.contender.name}"
        yield Figure(
            name=f"{self.title}: p50",
            value=self.best.p50_ms,
            unit="ms",
            sides=times_ms,
            sides_unit="ms",
            host=load,
            note=note,
        )
        for name, summary in (("mean", statistics.mean), ("least", min)):
            sides = {contender: round(summary(values), 5) for contender, values in self.cosines().items()}
            what = f"{self.title}: cosine to PyTorch, {name}"
            yield Figure(name=what, value=sides[self.best.contender.name], sides=sides, host=load)
        for result in self.results:
            if (other := result.contender.name) in aims:
                yield Figure(
                    name=f"{self.title}: speed against {(aliases or {}).get(other, other)}",
                    value=ratio(result, self.best),
                    unit="x",
                    sides={name: times_ms[name] for name in (self.best.contender.name, other)},
                    sides_unit="ms",
                    host=load,
                    aim=aims[other],
                    note=f"{result.best_ms / self.best.best_ms:.2f} x by the fastest bursts",
                )

    def _other_cores(self) -> Iterator[tuple[float, ...]]:
        return zip(*(it.other_cores for it in self.results), strict=True)


def saved(inputs: Mapping[str, np.ndarray], path: Path) -> Path:
    """Save arrays for the contenders' processes."""
    np.savez(path, **inputs)
    return path

"""The golden check: a model must answer here as it did where its bundle was made.

Each output is held to the manifest's two bounds: cosine at least `min_cosine`, no element off by more than `max_abs`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import Manifest
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array, from_data, to_data


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """How close the outputs came at worst, and how long the runs took."""

    min_cosine: float
    max_abs: float
    first_ms: float
    median_ms: float


def record(session: Session, inputs: Sequence[Mapping[str, Array]]) -> tuple[GoldenCase, ...]:
    """What the model answers to each of `inputs`, ready for `edgeml_core.golden.encode`."""
    return tuple(
        GoldenCase(
            inputs={name: to_data(array) for name, array in given.items()},
            outputs={name: to_data(array) for name, array in session.run(given).items()},
        )
        for given in inputs
    )


def check(session: Session, manifest: Manifest, cases: Sequence[GoldenCase]) -> GoldenResult:
    """Run every case and hold the outputs to the manifest's bounds.

    Returns:
        The worst figures over all cases; `first_ms` is the first run's, `median_ms` that of those after it.

    Raises:
        DeviceError: `golden-mismatch`, at the first output that is missing, of another shape, not a number or out of
            bounds; `runtime-failed`, when the runtime fails.
        RejectedError: `bundle-format`, when a case leaves out an output that the manifest lists.
    """
    cosines, distances, times_ms = [], [], []
    for number, case in enumerate(cases):
        if missing := {spec.name for spec in manifest.outputs} - case.outputs.keys():
            raise RejectedError("bundle-format", f"golden case {number} has no output {', '.join(sorted(missing))}")
        given = {name: from_data(tensor) for name, tensor in case.inputs.items()}
        begun = time.perf_counter()
        outputs = session.run(given)
        times_ms.append((time.perf_counter() - begun) * 1000)
        for name, tensor in case.outputs.items():
            cosine, distance = _compare(outputs.get(name), from_data(tensor))
            if not (cosine >= manifest.golden.min_cosine and distance <= manifest.golden.max_abs):
                raise _mismatch(f"case {number}, output {name!r}", cosine, distance)
            cosines.append(cosine)
            distances.append(distance)
    return GoldenResult(
        min_cosine=min(cosines),
        max_abs=max(distances),
        first_ms=times_ms[0],
        median_ms=statistics.median(times_ms[1:] or times_ms),
    )


def _compare(found: Array | None, expected: Array) -> tuple[float, float]:
    """Cosine and largest distance; both NaN when the tensors can't be compared."""
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        return float("nan"), float("nan")
    if expected.size == 0:
        return 1.0, 0.0
    here, there = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    return cosine(here, there), float(np.abs(here - there).max())


def cosine(one: Array, other: Array) -> float:
    """The cosine of two vectors in float64; two zero vectors agree, a zero vector with any other has 0."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0.0:
        return 1.0 if np.array_equal(one, other) else 0.0
    return float(np.dot(one, other)) / lengths


def _mismatch(where: str, cosine: float, distance: float) -> DeviceError:
    return DeviceError(
        "golden-mismatch",
        f"{where} differs from what the bundle recorded: cosine {cosine:.6f}, largest distance {distance:.6g}",
        "export the model again for this board's own CPU, or try another runtime version",
    )

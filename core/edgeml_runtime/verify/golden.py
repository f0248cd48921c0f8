"""Golden outputs: recorded where the bundle is made, reproduced where it runs.

Each output keeps the manifest's two bounds: its cosine is at least `min_cosine`, and no element differs by more than
`max_abs`. A model that writes token by token also writes the recorded tokens, which its later runs give. Each of them
leads the next likely one by more than two logits within the bounds can differ.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import Golden, Manifest
from edgeml_runtime.engines import Session
from edgeml_runtime.generate import greedy
from edgeml_runtime.tensors import Array, from_data, to_data

_DIGITS: Final = 4
_HINT: Final = "export the model again for this board's own CPU, or try another runtime version"
#: Tokens that a golden case has at most. A slow board writes them in a second or two.
TOKENS_MAX: Final = 8


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of one output of one case from the recorded one; NaN when the two can't be compared."""

    case: int
    output: str
    cosine: float
    max_abs: float
    run_ms: float

    def within(self, bounds: Golden) -> bool:
        """Return whether both bounds are kept; NaN never keeps them."""
        return self.cosine >= bounds.min_cosine and self.max_abs <= bounds.max_abs


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """The worst distances of all outputs, and the times of the runs."""

    min_cosine: float
    max_abs: float
    first_ms: float
    median_ms: float


def record(session: Session, inputs: Sequence[Mapping[str, Array]]) -> tuple[GoldenCase, ...]:
    """Run a model and record golden cases, for `edgeml_core.golden.encode`.

    Args:
        session: the loaded model.
        inputs: for each case, arrays by tensor name with the dtypes and shapes of the manifest's inputs.
    """
    return tuple(
        GoldenCase(
            inputs={name: to_data(array) for name, array in case.items()},
            outputs={name: to_data(array) for name, array in session.run(case).items()},
        )
        for case in inputs
    )


def bound(cases: Sequence[GoldenCase], max_relative: float) -> float:
    """Return the bound of distances: a fraction of the largest absolute value of any output, to four digits."""
    arrays = [from_data(tensor) for case in cases for tensor in case.outputs.values()]
    largest = max((float(abs(array).max()) for array in arrays if array.size), default=0.0)
    return float(f"{max_relative * largest:.{_DIGITS}g}")


def with_tokens(
    session: Session, manifest: Manifest, cases: Sequence[GoldenCase], *, max_abs: float
) -> tuple[GoldenCase, ...]:
    """Add the tokens that a model writes behind each case, as far as no logit within the bounds changes them.

    Args:
        session: the loaded model.
        manifest: the bundle's.
        cases: from `record`.
        max_abs: the bound of the bundle's golden outputs.

    Returns:
        The cases; those of other models as they are.
    """
    found = []
    for case in cases:
        begun = greedy.begin(session, manifest, _inputs(case))
        tokens = greedy.write(begun.read, begun.ids, TOKENS_MAX, begun.stop_ids, lead=2 * max_abs) if begun else ()
        found.append(msgspec.structs.replace(case, tokens=tuple(tokens) or UNSET))
    return tuple(found)


def check_tokens(session: Session, manifest: Manifest, cases: Sequence[GoldenCase]) -> None:
    """Check that a model writes the recorded tokens.

    Raises:
        DeviceError: `golden-mismatch`, at the first other token; `runtime-failed`, when the runtime fails.
        RejectedError: `bundle-format`, when the case of another model has tokens.
    """
    for number, case in enumerate(cases):
        if not case.tokens:
            continue
        begun = greedy.begin(session, manifest, _inputs(case))
        if begun is None:
            raise RejectedError("bundle-format", f"golden case {number} has tokens, but the model writes no text")
        chosen = greedy.follow(begun.read, begun.ids, case.tokens)
        for place, (found, expected) in enumerate(zip(chosen, case.tokens, strict=True), start=1):
            if found != expected:
                message = f"case {number} writes token {found} at place {place}, where the bundle recorded {expected}"
                raise DeviceError("golden-mismatch", message, _HINT)


def _inputs(case: GoldenCase) -> dict[str, Array]:
    return {name: from_data(tensor) for name, tensor in case.inputs.items()}


def check(session: Session, manifest: Manifest, cases: Sequence[GoldenCase]) -> GoldenResult:
    """Run every case and check its outputs against the manifest's bounds.

    Returns:
        The worst figures over all cases; `first_ms` is the first run's, `median_ms` that of those after it.

    Raises:
        DeviceError: `golden-mismatch`, at the first output that is missing, of another shape, not a number or out of
            bounds, or the first other token; `runtime-failed`, when the runtime fails.
        RejectedError: `bundle-format`, when a case leaves out an output that the manifest lists.
    """
    found = []
    for distance in distances(session, manifest, cases):
        if not distance.within(manifest.golden):
            raise mismatch(distance)
        found.append(distance)
    check_tokens(session, manifest, cases)
    times_ms = [it.run_ms for it in {it.case: it for it in found}.values()]
    return GoldenResult(
        min_cosine=min(it.cosine for it in found),
        max_abs=max(it.max_abs for it in found),
        first_ms=times_ms[0],
        median_ms=statistics.median(times_ms[1:] or times_ms),
    )


def distances(session: Session, manifest: Manifest, cases: Sequence[GoldenCase]) -> Iterator[Distance]:
    """Run every case and compare its outputs, one at a time.

    Raises:
        DeviceError: `runtime-failed`. RejectedError: `bundle-format`, when a case leaves out an output that the
            manifest lists.
    """
    for number, case in enumerate(cases):
        if missing := {spec.name for spec in manifest.outputs} - case.outputs.keys():
            raise RejectedError("bundle-format", f"golden case {number} has no output {', '.join(sorted(missing))}")
        inputs = _inputs(case)
        begun = time.perf_counter()
        outputs = session.run(inputs)
        run_ms = (time.perf_counter() - begun) * 1000
        for name, tensor in case.outputs.items():
            cosine, max_abs = _compare(outputs.get(name), from_data(tensor))
            yield Distance(case=number, output=name, cosine=cosine, max_abs=max_abs, run_ms=run_ms)


def _compare(found: Array | None, expected: Array) -> tuple[float, float]:
    """Compute cosine and largest distance; both are NaN when the tensors can't be compared."""
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        return float("nan"), float("nan")
    if expected.size == 0:
        return 1.0, 0.0
    here, there = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    return cosine(here, there), float(np.abs(here - there).max())


def cosine(one: Array, other: Array) -> float:
    """Compute the cosine of two vectors; of two zero vectors it is 1, of a zero vector with another 0.

    Args:
        one: float [elements].
        other: float [elements], as long.
    """
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0.0:
        return 1.0 if np.array_equal(one, other) else 0.0
    return float(np.dot(one, other)) / lengths


def mismatch(distance: Distance, *, where: str = "") -> DeviceError:
    """Build the error for an output out of bounds; `where` names the CPU when it is not this machine's."""
    return DeviceError(
        "golden-mismatch",
        f"{f'on {where}: ' if where else ''}case {distance.case}, output {distance.output!r} differs from what the "
        f"bundle recorded: cosine {distance.cosine:.6f}, largest distance {distance.max_abs:.6g}",
        _HINT,
    )

"""Parity: the distance of a model's answers from the original's, over real inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeml.check.predictions import outputs, vector
from edgeml_core.card import Parity
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Embedding, TensorOutput
from edgeml_runtime.tasks import Answer
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify.golden import cosine

#: Cosine; below it a model is another one, not a worse version of the original.
COSINE_MIN: Final = 0.95
#: Root mean square of an output's error, as a fraction of the output's spread. For values around zero it is the error
#: that `COSINE_MIN` allows. Values far from zero have a high cosine at any error.
ERROR_MAX: Final = 0.32
#: Least spread of an output, as a fraction of its root mean square, since constant values have none. The least spread
#: of probabilities is a half.
SPREAD_MIN: Final = 0.05
#: Fraction of the decisions that probabilities make which must stay: the likeliest class, or the side of one half.
DECISIONS_MIN: Final = 0.95
#: Decisions on one side of one half that count by themselves: a rare side would be hidden behind the other.
SIDE_MIN: Final = 20
#: Values in a slice of an output; with fewer, other values lie within 0 and 1 by chance.
SLICE_MIN: Final = 64
#: Ratio of root mean squares, other values to probabilities of the same output, above which they hide these.
HIDING_MIN: Final = 10.0
_HALF: Final = 0.5
#: Distance from 1 of the sum of probabilities that exclude each other.
_SUM_ERROR_MAX: Final = 1e-3
#: Digits of figures on the card; more would differ between runs.
_COSINE_DECIMALS: Final = 6
_DIGITS: Final = 4


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """The distance of one output from the original's, over all rows, at the output's own scale.

    Attributes:
        cosine: of all its values.
        error: root mean square of the differences, as a fraction of the original's spread.
        decisions: fraction of the decisions that stayed, the lower one of the two sides of one half; None where the
            values are no probabilities.
    """

    name: str
    cosine: float
    error: float
    decisions: float | None

    @property
    def fault(self) -> str:
        """The bound that is missed; empty when all are kept. A figure that is not a number misses its bound."""
        if not self.cosine >= COSINE_MIN:
            return f"output {self.name!r} has cosine {self.cosine:.4f}, below {COSINE_MIN}"
        if self.decisions is not None and not self.decisions >= DECISIONS_MIN:
            return f"output {self.name!r} keeps {self.decisions:.1%} of its decisions, below {DECISIONS_MIN:.0%}"
        if not self.error <= ERROR_MAX:
            return f"output {self.name!r} is off by {self.error:.2f} of its spread, above {ERROR_MAX}"
        return ""


def by_output(found: Sequence[Answer], original: Sequence[Answer], manifest: Manifest) -> tuple[OutputParity, ...]:
    """Compare each output of a model that answers with tensors; another task's answer is one whole.

    Args:
        found: the candidate's answers.
        original: the original's answers to the same items.
        manifest: the candidate's.
    """
    if not isinstance(manifest.postprocess, TensorOutput):
        return ()
    pairs = [(outputs(one), outputs(other)) for one, other in zip(found, original, strict=True)]
    names = pairs[0][1] if pairs else ()
    return tuple(part for name in names for part in _parts(name, [(one[name], other[name]) for one, other in pairs]))


def _parts(name: str, pairs: Sequence[tuple[Array, Array]]) -> Iterator[OutputParity]:
    """Compare an output as a whole, then probabilities that it packs beside far larger values, such as boxes."""
    yield _output(name, pairs)
    originals = [other for _, other in pairs]
    for axis in range(1, min(it.ndim for it in originals)):
        found = _packed(originals, axis)
        if found is not None:
            one, other = ([np.take(pair[side], found, axis) for pair in pairs] for side in (0, 1))
            yield _output(f"{name}, probabilities along axis {axis}", list(zip(one, other, strict=True)))
            return


def _packed(arrays: Sequence[Array], axis: int) -> Array | None:
    """Return the indices along an axis that hold probabilities alone, where the others hide them."""
    if len({it.shape[axis] for it in arrays}) != 1 or not all(it.size for it in arrays):
        return None
    rows = np.concatenate([np.moveaxis(it, axis, 0).reshape(it.shape[axis], -1) for it in arrays], axis=1)
    is_probability = (rows.min(axis=1) >= 0) & (rows.max(axis=1) <= 1)
    if rows.shape[1] < SLICE_MIN or not is_probability.any() or is_probability.all():
        return None
    own, others = _rms(rows[is_probability]), _rms(rows[~is_probability])
    return np.flatnonzero(is_probability) if own and others >= HIDING_MIN * own else None


def _output(name: str, pairs: Sequence[tuple[Array, Array]]) -> OutputParity:
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    decisions = _decisions(pairs, other)
    least = SPREAD_MIN * _rms(other) if decisions is None else _HALF
    spread = max(float(other.std()), least) if other.size else 0.0
    off = _rms(one - other)
    return OutputParity(
        name=name,
        cosine=cosine(one, other),
        error=off / spread if spread else off,
        decisions=decisions,
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _decisions(pairs: Sequence[tuple[Array, Array]], original: Array) -> float | None:
    if not (original.size and original.min() >= 0 and original.max() <= 1):
        return None
    if all(other.ndim and _is_distribution(other) for _, other in pairs):
        same = [one.argmax(axis=-1) == other.argmax(axis=-1) for one, other in pairs]
        return float(np.concatenate([np.ravel(it) for it in same]).mean())
    before, after = (np.concatenate([pair[side].ravel() for pair in pairs]) > _HALF for side in (1, 0))
    sides = [after[before == side] == side for side in (False, True)]
    return float(min([(before == after).mean(), *(it.mean() for it in sides if it.size >= SIDE_MIN)]))


def _is_distribution(values: Array) -> bool:
    return values.shape[-1] > 1 and bool((np.abs(values.sum(axis=-1) - 1) <= _SUM_ERROR_MAX).all())


def compare(found: Sequence[Answer], original: Sequence[Answer], manifest: Manifest, *, against: str) -> Parity:
    """Compare two models' answers to the same items.

    Args:
        found: the candidate's answers.
        original: the original's answers.
        manifest: the candidate's.
        against: the original's name, for the card.

    Returns:
        `cosine` is the lowest of any single embedding. The direction of scores and tensors means nothing for a single
        item, so their `cosine` is that of all answers concatenated: of tensors, that of the worst output. `max_abs` is
        the largest distance of any number.
    """
    pairs = [(vector(one, manifest), vector(other, manifest)) for one, other in zip(found, original, strict=True)]
    outputs_apart = [it.cosine for it in by_output(found, original, manifest)]
    if not isinstance(manifest.postprocess, Embedding):
        pairs = [(np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs]))]
    return Parity(
        against=against,
        rows=len(found),
        max_abs=float(f"{max(float(np.abs(one - other).max(initial=0)) for one, other in pairs):.{_DIGITS}g}"),
        cosine=round(min(outputs_apart or [cosine(one, other) for one, other in pairs]), _COSINE_DECIMALS),
    )


def check_parity(parity: Parity, by_output: Sequence[OutputParity] = ()) -> None:
    """Check that the model answers like the original, and each output on its own.

    Raises:
        GateFailed: `gate-failed`; it names the output.
    """
    faults = [it.fault for it in by_output if it.fault]
    if not by_output and not parity.cosine >= COSINE_MIN:
        faults = [f"cosine {parity.cosine:.4f} to {parity.against} is below {COSINE_MIN}"]
    if faults:
        raise GateFailed(
            "gate-failed",
            "; ".join(faults),
            "calibrate on more rows, train adapters against the loss, take another target, or ship fp32 with "
            "--quantize none",
        )

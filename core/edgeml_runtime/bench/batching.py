"""How a model runs on this machine, measured when it is loaded: how long one run takes, and whether sharing one pays.

A model whose weights come slowly from memory answers eight rows in little more than the time of one (5 to 7 times as
many a second for an MLP); one that computes much per weight gains nothing and makes all of them wait (a conv net).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgeml_runtime.model import Model
from edgeml_runtime.tensors import Array

#: Requests in one run: more gain little on a CPU.
SHARED_MAX: Final = 8
#: Sharing must bring so much more throughput: less isn't worth waiting for each other.
GAIN_MIN: Final = 1.5
#: What an answer may change by the company that it is computed in: dynamic quantization scales over all rows.
TOLERANCE: Final = 1e-4
#: A model slower than this isn't tried in company: the trial would keep its first client waiting.
TRIED_MAX_S: Final = 0.05
#: When a model is loaded, which its first client waits for.
REPEATS: Final = 3

Inputs = Mapping[str, Array]


class RunCost(NamedTuple):
    """What was measured of a loaded model.

    Attributes:
        run_s: the median time of a run of one row.
        share: how many requests should share a run; 1 where sharing doesn't pay or would change answers.
    """

    run_s: float
    share: int


def measure_run_cost(model: Model, cases: Sequence[Inputs], *, repeats: int = REPEATS) -> RunCost:
    """Run the model alone and in company.

    Args:
        cases: golden inputs, a row each.
        repeats: of each; the median counts.
    """
    alone_s, alone = timed(model, cases[0], repeats)
    can_share = model.takes_batches or model.stacks
    if alone_s > TRIED_MAX_S or not can_share or any(it.shape[:1] != (1,) for it in cases[0].values()):
        return RunCost(alone_s, 1)
    rows = [cases[0], *(case for case in cases[1:] if _shapes(case) == _shapes(cases[0]))]
    company = (rows * SHARED_MAX)[:SHARED_MAX]
    joined = {name: np.concatenate([row[name] for row in company]) for name in cases[0]}
    together_s, together = timed(model, joined, repeats)
    same = all(np.allclose(together[name][:1], alone[name], rtol=TOLERANCE, atol=TOLERANCE) for name in alone)
    return RunCost(alone_s, SHARED_MAX if same and alone_s * SHARED_MAX >= GAIN_MIN * together_s else 1)


def _shapes(case: Inputs) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in case.items()}


def timed(model: Model, inputs: Inputs, repeats: int = REPEATS) -> tuple[float, dict[str, Array]]:
    """The median time of a run in seconds, and what it gives."""
    times_s = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        outputs = model.infer(inputs)
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s), outputs

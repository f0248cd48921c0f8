"""The cost of a run on this machine, measured when a model is loaded: its time, and whether batches pay.

Some models wait for their weights from memory. Such a model runs eight rows in little more than the time of one (an
MLP: 5 to 7 times the throughput). A model that computes much per weight gains nothing (a convolutional net).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgeml_runtime.model import Model
from edgeml_runtime.tensors import Array

#: Requests in one batch: more gain little on a CPU.
BATCH_MAX: Final = 8
#: Ratio of throughput in batches to that of single runs; less isn't worth the wait for each other.
GAIN_MIN: Final = 1.5
#: Relative and absolute change of an output by the other rows of its batch. Dynamic quantization scales over all rows.
TOLERANCE: Final = 1e-4
#: Seconds of one run; a slower model isn't measured in batches, since its first client waits for the measurement.
MEASURED_RUN_MAX_S: Final = 0.05
#: Runs of each batch size; the first client waits for them.
REPEATS: Final = 3

Inputs = Mapping[str, Array]


class RunCost(NamedTuple):
    """The measured cost of a loaded model.

    Attributes:
        run_s: the median time of a run of one row, in seconds.
        batch_size: how many requests should share a run; 1 where a batch doesn't pay or would change answers.
    """

    run_s: float
    batch_size: int


def measure_run_cost(model: Model, cases: Sequence[Inputs], *, repeats: int = REPEATS) -> RunCost:
    """Time a model with one row and with a batch.

    Args:
        model: loaded.
        cases: golden inputs by tensor name; the first axis of each array is the row.
        repeats: of each batch size; the median counts.
    """
    one_s, one = timed(model, cases[0], repeats)
    can_share = model.takes_batches or model.stacks
    if one_s > MEASURED_RUN_MAX_S or not can_share or any(it.shape[:1] != (1,) for it in cases[0].values()):
        return RunCost(one_s, 1)
    rows = [cases[0], *(case for case in cases[1:] if _shapes(case) == _shapes(cases[0]))]
    batch = (rows * BATCH_MAX)[:BATCH_MAX]
    joined = {name: np.concatenate([row[name] for row in batch]) for name in cases[0]}
    batch_s, outputs = timed(model, joined, repeats)
    same = all(np.allclose(outputs[name][:1], one[name], rtol=TOLERANCE, atol=TOLERANCE) for name in one)
    return RunCost(one_s, BATCH_MAX if same and one_s * BATCH_MAX >= GAIN_MIN * batch_s else 1)


def _shapes(case: Inputs) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in case.items()}


def timed(model: Model, inputs: Inputs, repeats: int = REPEATS) -> tuple[float, dict[str, Array]]:
    """Run the model and return the median time in seconds, and the outputs of the last run.

    Args:
        model: loaded.
        inputs: arrays by tensor name; the first axis is the row.
        repeats: number of runs.
    """
    times_s = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        outputs = model.infer(inputs)
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s), outputs

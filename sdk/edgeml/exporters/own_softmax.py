"""Classifiers that end in a softmax of their own: a second one would make every answer near to even."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from edgeml.oracle import torch_modules
from edgeml_core.processing import Classes, Postprocess
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array

#: How far the sum of probabilities may be from 1: float16 rounds each of a thousand.
SUM_MAX: Final = 1e-3
_NOTE: Final = "the model's own answers are probabilities: no softmax follows"


def leave_out(
    postprocess: Postprocess, original: Session, example: Mapping[str, Array] | None
) -> tuple[Postprocess, tuple[str, ...]]:
    """Leave out the softmax behind a classifier whose answers are probabilities already.

    Args:
        postprocess: as the task asks for it.
        original: the model.
        example: inputs that it can run, arrays by name; None where none are known.

    Returns:
        The postprocessing, and a note for the card where it is another.
    """
    if not isinstance(postprocess, Classes) or postprocess.activation != "softmax" or example is None:
        return postprocess, ()
    answers = (original.run(it)[postprocess.output] for it in torch_modules.variations(example))
    if not _are_probabilities(answers):
        return postprocess, ()
    return msgspec.structs.replace(postprocess, activation="none"), (_NOTE,)


def _are_probabilities(answers: Iterable[Array]) -> bool:
    return all(it.min(initial=0) >= 0 and bool((np.abs(it.sum(-1) - 1) <= SUM_MAX).all()) for it in answers)

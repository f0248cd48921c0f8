"""The oracle of a torch module: the module itself, on its example and on other inputs of the same form.

It is asked in the export's own process, since no other one can load it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch

from edgeml.oracle.protocol import LibraryAnswer, Reply
from edgeml_core.errors import UsageError
from edgeml_runtime.engines import Session
from edgeml_runtime.tasks import Item, Tensors
from edgeml_runtime.tensors import Array

#: Times the example.
LARGER: Final = 3
#: Of the inputs drawn with the example's mean and deviation.
SEED: Final = 20
#: The distance of two answers to one input, as a fraction of their largest number: threads add in any order.
REPEATED_MAX: Final = 1e-4
#: Characters of the module's own error.
ERROR_CHARS: Final = 300


class ModuleJudge:
    """A module's answers to its example and to other inputs.

    Args:
        session: runs the module on arrays by name.
        example: the module's example, arrays by name.
        takes_batches: whether the first axis of all inputs is a batch of any size.
    """

    def __init__(self, session: Session, example: Mapping[str, Array], *, takes_batches: bool) -> None:
        self._session = session
        inputs = list(variations(example))
        if takes_batches:
            inputs.append(stacked(inputs[0], inputs[-1]))
        self._items = [Tensors(it) for it in inputs if _is_finite(it)]

    @property
    def items(self) -> list[Item]:
        """The inputs as the bundle takes them."""
        return list(self._items)

    def reply(self, items: Sequence[Item]) -> Reply:
        """Answer each item; an answer that is no number counts for nothing."""
        return Reply(library=f"torch {torch.__version__}", answers=tuple(self._answer(item) for item in items))

    def _answer(self, item: Item) -> LibraryAnswer:
        if not isinstance(item, Tensors):
            return LibraryAnswer(error="no tensors")
        try:
            outputs = self._session.run(item.inputs)
        except Exception as error:  # noqa: BLE001 -- the operator's own code
            return LibraryAnswer(error=f"{type(error).__name__}: {error}"[:ERROR_CHARS])
        if not _is_finite(outputs):
            return LibraryAnswer(error="the answer is not finite")
        return LibraryAnswer(answer={"outputs": outputs})


def check_repeats(session: Session, example: Mapping[str, Array]) -> None:
    """Check that a module answers its example alike before and after another input.

    Raises:
        UsageError: `model-unsupported`, when the answers differ: the module keeps a state, or draws random numbers.
    """
    before = session.run(example)
    _, other, *_ = variations(example)
    with contextlib.suppress(Exception):  # the module's own code may refuse the input
        session.run(other)
    after = session.run(example)
    for name, values in before.items():
        if not is_near(values, after[name]):
            message = f"the model gives two answers to one input: output {name!r} changes from run to run"
            hint = "draw no random numbers in the model, and take a state as an input and return it as an output"
            raise UsageError("model-unsupported", message, hint)


def is_near(one: Array, other: Array) -> bool:
    """Return whether two arrays are the same but for rounding; NaN is near NaN."""
    if one.shape != other.shape:
        return False
    largest = float(np.nan_to_num(np.abs(one)).max(initial=0)) if one.dtype.kind == "f" else 0.0
    return bool(np.allclose(one, other, rtol=REPEATED_MAX, atol=REPEATED_MAX * largest, equal_nan=True))


def variations(example: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Make inputs of the example's form: itself, negated, larger, and drawn with its mean and deviation, twice.

    Whole numbers stay within the example's range, since they may number the rows of a table.
    """
    yield dict(example)
    yield {name: np.array(-it if it.dtype.kind == "f" else np.flip(it)) for name, it in example.items()}
    yield {name: np.array(LARGER * it if it.dtype.kind == "f" else np.roll(it, 1)) for name, it in example.items()}
    random = np.random.default_rng(SEED)
    for _ in range(2):
        yield {name: _drawn(it, random) for name, it in example.items()}


def stacked(one: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, Array]:
    """Join two inputs along the batch axis."""
    return {name: np.concatenate([it, other[name]]) for name, it in one.items()}


def _drawn(array: Array, random: np.random.Generator) -> Array:
    if not array.size or array.dtype.kind not in "fiub":
        return array
    if array.dtype.kind == "f":
        return np.asarray(random.normal(array.mean(), array.std() or 1.0, array.shape).astype(array.dtype))
    low, high = int(array.min()), int(array.max())
    return np.asarray(random.integers(low, high, array.shape, endpoint=True).astype(array.dtype))


def _is_finite(arrays: Mapping[str, Array]) -> bool:
    return all(np.isfinite(it).all() for it in arrays.values() if it.dtype.kind == "f")

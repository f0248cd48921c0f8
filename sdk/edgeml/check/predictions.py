"""A model's answers to items, and the answers as vectors to compare. The device's code makes them."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from edgeml_core.errors import EdgemlError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import (
    Boxes,
    Classes,
    Decoded,
    Embedding,
    Generation,
    MaskFill,
    QuestionInput,
    Span,
    TensorInput,
    TensorOutput,
    TextInput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime.bench.batching import TOLERANCE
from edgeml_runtime.model import BATCH_MAX, Model
from edgeml_runtime.tasks import Answer, Item, Masked, Picture, Sound, Tensors, Tokens
from edgeml_runtime.tensors import Array

#: Rows for which one more copy of a model is loaded; fewer are answered while it loads.
ROWS_PER_MODEL: Final = 256
#: Numbers in one run, tokens for a text. Beyond it, more rows in a run save no time and cost memory.
RUN_NUMBERS_MAX: Final = 4096
#: Texts whose tokens are counted at once.
_COUNTED_TEXTS: Final = 256
#: Seconds between two reports of the rows done.
REPORT_S: Final = 0.5
#: Errors of models that don't take several rows at once, though their signature has it.
_REFUSALS: Final = (EdgemlError, RuntimeError, ValueError, TypeError, LookupError)

#: Receives the number of rows done, and of all.
Advance = Callable[[int, int], object]


def ignore(done: int, total: int) -> None:
    """Ignore the number of rows done, and of all."""


def models_for(items: Sequence[Item]) -> int:
    """Count the copies of a model that share the rows: one for each core, fewer for few rows."""
    return max(1, min(len(os.sched_getaffinity(0)), len(items) // ROWS_PER_MODEL))


def predict(models: Sequence[Model], items: Sequence[Item], advance: Advance = ignore) -> list[Answer]:
    """Answer each item in a run of its own: a batch would scale dynamic activations over all its items.

    Args:
        models: copies of one model, which share the items; each has a thread of its own.
        items: of the model's kind.
        advance: is called about twice a second, in the caller's thread.

    Returns:
        One answer for each item, in order.
    """
    return _answer(models, items, [[at] for at in range(len(items))], advance)


def predict_together(models: Sequence[Model], items: Sequence[Item], advance: Advance = ignore) -> list[Answer]:
    """Answer as `predict` a model that scales nothing over a run, such as the original. Items of one shape share a run.

    So nothing is padded, and an answer differs by rounding only. The first items that share a run are answered alone,
    too: where an answer depends on the others, each item gets a run of its own.
    """
    groups = list(_groups(models[0], items))
    first = next((group for group in groups if len(group) > 1), None)
    if first is not None and not _is_independent(models[0], [items[at] for at in first]):
        return predict(models, items, advance)
    return _answer(models, items, groups, advance)


def _answer(
    models: Sequence[Model], items: Sequence[Item], groups: Sequence[Sequence[int]], advance: Advance
) -> list[Answer]:
    """Answer groups of items by their places, each in one call of `Model.predict`."""
    answers: dict[int, Answer] = {}
    waiting, stopped = iter(groups), threading.Event()
    taking = threading.Lock()

    def work(model: Model) -> None:
        while not stopped.is_set():
            with taking:
                group = next(waiting, None)
            if group is None:
                return
            answers.update(zip(group, model.predict([items[at] for at in group]), strict=True))

    with _one_thread(models[0]), ThreadPoolExecutor(len(models)) as pool:
        running = {pool.submit(work, model) for model in models}
        try:
            while running:
                done, running = wait(running, REPORT_S, "FIRST_COMPLETED")
                for it in done:
                    it.result()
                advance(len(answers), len(items))
        finally:
            stopped.set()
    return [answers[at] for at in range(len(items))]


@runtime_checkable
class _Threaded(Protocol):
    """A session whose operators have threads of their own, such as PyTorch's."""

    def one_thread(self) -> AbstractContextManager[None]:
        """Let each caller's thread compute alone."""


def _one_thread(model: Model) -> AbstractContextManager[None]:
    return model.session.one_thread() if isinstance(model.session, _Threaded) else nullcontext()


def _groups(model: Model, items: Sequence[Item]) -> Iterator[list[int]]:
    """Yield the places of items that share a run: those of one shape, as many as pay, the first come first."""
    pending: defaultdict[Hashable, list[int]] = defaultdict(list)
    for at, (shape, numbers) in enumerate(_shapes(model, items)):
        group = pending[shape]
        group.append(at)
        if len(group) >= min(BATCH_MAX, RUN_NUMBERS_MAX // max(1, numbers)):
            yield pending.pop(shape)
    yield from pending.values()


def _shapes(model: Model, items: Sequence[Item]) -> Iterator[tuple[Hashable, int]]:
    """Yield the shape of each item and its numbers; a shape of its own where items can't share a run."""
    spec = model.manifest.preprocess
    is_single = not isinstance(model.manifest.postprocess, Classes | TokenClasses | Embedding | TensorOutput)
    match spec:
        case TextInput() if model.takes_batches and not (is_single or isinstance(spec, QuestionInput)):
            for start in range(0, len(items), _COUNTED_TEXTS):
                for about in model.prepare(items[start : start + _COUNTED_TEXTS]).about:
                    tokens = len(about.texts) if isinstance(about, Tokens) else 0
                    yield tokens, tokens
        case TensorInput() if model.stacks and not is_single:
            for item in items:
                arrays = item.inputs if isinstance(item, Tensors) else {}
                shape = tuple(sorted((name, array.shape) for name, array in arrays.items()))
                yield shape, sum(array.size for array in arrays.values())
        case _:
            yield from ((at, RUN_NUMBERS_MAX) for at in range(len(items)))


def _is_independent(model: Model, items: Sequence[Item]) -> bool:
    """Compare answers in one run with answers alone."""
    alone = [vector(model.predict([item])[0], model.manifest) for item in items]
    try:
        together = [vector(answer, model.manifest) for answer in model.predict(items)]
    except _REFUSALS:
        return False
    pairs = zip(together, alone, strict=True)
    return all(one.shape == two.shape and np.allclose(one, two, rtol=TOLERANCE, atol=TOLERANCE) for one, two in pairs)


def scores(model: Model, items: Sequence[Item]) -> list[Answer]:
    """Answer as `predict`; spans, boxes, tokens and transcripts are replaced by the scores that they are chosen by."""
    spec = model.manifest.postprocess
    match spec:
        case Boxes(logits=logits, boxes=boxes):
            return [_outputs(model, item, (logits, boxes)) for item in items]
        case Span(start=start, end=end):
            return [_outputs(model, item, (start, end)) for item in items]
        case Generation(output=output) | MaskFill(output=output) | Transcript(output=output):
            return [_outputs(model, item, (output,)) for item in items]
        case Decoded(output=output):
            return [_outputs(model, item, (output,)) for item in items]
        case _:
            return predict([model], items)


def _outputs(model: Model, item: Item, names: Sequence[str]) -> Answer:
    """Run one item: a question's scores without padding, a prompt's for the next token, all of another item."""
    prepared = model.prepare([item])
    outputs = model.infer(prepared.tensors)
    match prepared.about:
        case [Picture() | Masked() | Sound()]:
            taken: slice | int = slice(None)
        case [Tokens() as tokens]:
            taken = slice(len(tokens.texts))
        case _:
            taken = -1
    return {"outputs": {name: outputs[name][0, taken].tolist() for name in names}}


def outputs(answer: Answer) -> dict[str, Array]:
    """Return the numbers of an answer in tensors: float64 by output name, in their own shapes."""
    given: Mapping[str, Any] = answer
    return {name: np.asarray(values, dtype=np.float64) for name, values in given["outputs"].items()}


def vector(answer: Answer, manifest: Manifest) -> Array:
    """Flatten an answer to one float64 vector, comparable between two models of one signature."""
    given: Mapping[str, Any] = answer
    match manifest.postprocess:
        case Classes(labels=labels):
            scores = {entry["label"]: entry["score"] for entry in given["labels"]}
            return np.array([scores[label] for label in labels])
        case TokenClasses(labels=labels):
            return np.array([_at(labels, entry) for entry in given["tokens"]]).ravel()
        case _:
            if "outputs" in given:
                return np.concatenate([values.ravel() for values in outputs(answer).values()])
            return np.asarray(given["embedding"], dtype=np.float64)


def _at(labels: Sequence[str], entry: Mapping[str, Any]) -> list[float]:
    """Put a token's best score at its label's place: another label gives an orthogonal vector."""
    return [entry["score"] if label == entry["label"] else 0.0 for label in labels]

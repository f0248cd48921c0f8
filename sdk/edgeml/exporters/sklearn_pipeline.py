"""A fitted scikit-learn estimator or pipeline, or one of a boosting library, as a model over rows of a table.

A classifier answers with its probabilities or scores by label; a detector of outliers with labels and scores; any other
estimator with the numbers that it predicts or makes. The estimator itself judges the bundle (`edgeml.oracle`).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from sklearn.base import is_classifier

from edgeml.exporters import estimator_onnx
from edgeml.exporters.estimator_onnx import ERROR_CHARS, Precision
from edgeml.exporters.estimator_rows import Table
from edgeml.exporters.source import Signature, Source
from edgeml.oracle import estimators
from edgeml.oracle.protocol import LibraryAnswer, Reply
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.processing import Classes, Postprocess, TensorInput, TensorOutput
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.tasks import Item, Tensors
from edgeml_runtime.tensors import Array

#: Rows of the example that the estimator and the bundle both answer.
ROWS_MAX: Final = 64
#: The distance of an output's numbers beyond which float64 is tried: a tenth of the oracle's bound.
NEAR: Final = 1e-4
#: The fraction of rows whose answers may change when the rows are rounded to float32.
BORDERS_MAX: Final = 0.1
_PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "float64")


class Estimator:
    """A fitted estimator as a runtime session.

    Args:
        estimator: or a pipeline.
        table: the form of its rows.
    """

    def __init__(self, estimator: Any, table: Table) -> None:  # noqa: ANN401 -- scikit-learn has no types
        self._estimator, self._table = estimator, table

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Predict rows, tensors of the table's columns; the outputs are float32 or int64 [rows, values]."""
        found = estimators.outputs(self._estimator, self._table.restore(inputs))
        return {name: values.astype(np.int64 if name == "label" else np.float32) for name, values in found.items()}

    def close(self) -> None:
        """Free nothing."""


class EstimatorJudge:
    """The estimator's own answers to rows as the operator gave them, and to hard ones.

    Args:
        estimator: or a pipeline.
        table: the form of its rows.

    Raises:
        UsageError: `model-unreadable`, when the estimator answers none of the rows given.
    """

    def __init__(self, estimator: Any, table: Table) -> None:  # noqa: ANN401 -- as above
        self._estimator, self._table = estimator, table
        count = len(table.rows)
        chosen = np.unique(np.linspace(0, count - 1, min(count, ROWS_MAX)).astype(int)).tolist()
        self.given = given = estimators.part(table.rows, chosen)
        answers = estimators.answers(estimator, given)
        if all(it.answer is None for it in answers):
            message = f"the estimator can't predict its example: {answers[0].error}"
            raise UsageError("model-unreadable", message, "return (fitted estimator, rows) that it takes")
        #: Each row as the bundle takes it, and the answer to it.
        self.pairs, self.rounded = self._on_borders(list(self._pairs(given, answers)))
        self.takes_missing = any(_has_missing(item) for item, _ in self.pairs)
        hard = estimators.hard_rows(given)
        self.pairs += self._pairs(hard, estimators.answers(estimator, hard) if len(hard) else [])

    def _pairs(self, rows: Any, answers: Sequence[LibraryAnswer]) -> Iterator[tuple[Tensors, LibraryAnswer]]:  # noqa: ANN401 -- as above
        for at, answer in enumerate(answers):
            with contextlib.suppress(TypeError, ValueError):  # no request can bring such a row
                yield Tensors(self._table.tensors(estimators.part(rows, [at]))), answer

    def _on_borders(
        self, pairs: list[tuple[Tensors, LibraryAnswer]]
    ) -> tuple[list[tuple[Tensors, LibraryAnswer]], int]:
        """Take the answers to rounded rows where few rows lie on a tree's border; else float32 is too coarse."""
        found = [(item, self._converted(item)) for item, _ in pairs]
        far = [not _is_near(one, other) for (_, one), (_, other) in zip(pairs, found, strict=True)]
        return (found, sum(far)) if 0 < sum(far) <= BORDERS_MAX * len(pairs) else (pairs, 0)

    @property
    def items(self) -> list[Item]:
        """The rows as the bundle takes them."""
        return [item for item, _ in self.pairs]

    def settle_missing(self, session: OrtSession) -> None:
        """Leave out rows with missing numbers, unless the operator gave such, or the converted model answers alike."""
        hard = [pair for pair in self.pairs if _has_missing(pair[0])]
        answered = [pair for pair in hard if pair[1].answer is not None]
        self.takes_missing = self.takes_missing or (bool(answered) and _worst(session, answered) <= NEAR)
        if not self.takes_missing:
            self.pairs = [pair for pair in self.pairs if not _has_missing(pair[0])]

    def reply(self, items: Sequence[Item]) -> Reply:
        """Answer rows: its own as they were given, others as their tensors have them."""
        own = {id(item): answer for item, answer in self.pairs}
        answers = [own.get(id(item)) or self._converted(item) for item in items]
        return Reply(library=estimators.library(self._estimator), answers=tuple(answers))

    def _converted(self, item: Item) -> LibraryAnswer:
        if not isinstance(item, Tensors):
            return LibraryAnswer(error="no row of a table")
        return estimators.answers(self._estimator, self._table.restore(item.inputs))[0]


def source(name: str, estimator: Any, rows: object, work: Path, *, task: Task | None) -> Source:  # noqa: ANN401 -- as above
    """Describe a fitted estimator as a model.

    Args:
        name: fit to name a release.
        estimator: or a pipeline.
        rows: examples of its input: a data frame, an array, or a list of texts.
        work: a folder for temporary files.
        task: None or `tensors`.

    Raises:
        UsageError: `model-unreadable`, when it isn't fitted or the rows don't fit it; `model-unsupported`, when ONNX
            has no operator for it, it is a classifier without scores, or a task is named; `extra-missing`.
    """
    if task not in (None, "tensors"):
        raise UsageError("model-unsupported", f"task {task} is not for rows of a table", "leave out --task")
    table = Table(rows)
    judge = EstimatorJudge(estimator, table)
    example = judge.pairs[0][0].inputs
    original = Estimator(estimator, table)
    outputs = original.run(example)
    path = work / "estimator.onnx"
    session = _convert(estimator, table, list(outputs), judge, path)
    judge.settle_missing(session)
    return Source(
        name=name,
        task="tensors",
        kind="estimator",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        signature=Signature(
            inputs=table.specs,
            outputs=tuple(_spec(name, array) for name, array in outputs.items()),
            preprocess=TensorInput(missing=judge.takes_missing),
            postprocess=_postprocess(estimator, *outputs),
        ),
        example=example,
        original=original,
        original_name=estimators.library(estimator).partition(" ")[0],
        assets={},
        model=path,
        tools={name: metadata.version(name) for name in ("scikit-learn", "skl2onnx")},
        notes=tuple(_notes(estimator, session, judge)),
        judge=judge,
    )


def _convert(estimator: Any, table: Table, outputs: Sequence[str], judge: EstimatorJudge, path: Path) -> OrtSession:  # noqa: ANN401 -- as above
    """Write the model that computes in float32, or in float64 where that is nearer to the original."""
    pairs = [
        (item, answer)
        for item, answer in judge.pairs
        if answer.answer is not None and (judge.takes_missing or not _has_missing(item))
    ]
    tried: list[tuple[float, bytes]] = []
    problems: list[EdgemlError] = []
    for precision in _PRECISIONS:
        try:
            model = estimator_onnx.convert(estimator, table.specs, outputs, precision, path.parent)
            onnx.save(model, path)
            tried.append((_worst(OrtSession(path, {}, threads=1), pairs), path.read_bytes()))
        except EdgemlError as error:
            problems.append(error)
            continue
        if tried[-1][0] <= NEAR:
            break
    if not tried:
        raise _unsupported(problems[0])
    path.write_bytes(min(tried, key=lambda it: it[0])[1])
    return OrtSession(path, {}, threads=1)


def _unsupported(error: EdgemlError) -> EdgemlError:
    if isinstance(error, UsageError):
        return error
    message = f"onnxruntime can't run the converted model: {error.message[:ERROR_CHARS]}"
    return UsageError("model-unsupported", message, "use an estimator that skl2onnx supports")


def _worst(session: OrtSession, pairs: Sequence[tuple[Tensors, LibraryAnswer]]) -> float:
    """The largest distance of a number from the library's, relative above 1; infinite after a failure."""
    worst = 0.0
    for item, answer in pairs:
        try:
            found = np.concatenate([it.ravel().astype(np.float64) for it in session.run(item.inputs).values()])
        except EdgemlError:
            return math.inf
        expected = np.array(list(_numbers(answer)))
        if found.shape != expected.shape:
            return math.inf
        distance = np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected)))
        worst = max(worst, float(np.nan_to_num(distance, nan=math.inf)))
    return worst


def _is_near(one: LibraryAnswer, other: LibraryAnswer) -> bool:
    ours, theirs = (np.array(list(_numbers(it))) for it in (one, other))
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=NEAR, atol=NEAR)


def _numbers(answer: LibraryAnswer) -> Iterator[float]:
    given = answer.answer or {}
    if "labels" in given:
        yield from (it["score"] for it in given["labels"])
    for values in given.get("outputs", {}).values():
        yield from np.asarray(values, dtype=np.float64).ravel()


def _has_missing(item: Tensors) -> bool:
    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in item.inputs.values())


def _notes(estimator: Any, session: OrtSession, judge: EstimatorJudge) -> Iterator[str]:  # noqa: ANN401 -- as above
    """State where the estimator refuses a row that the bundle answers, and where its labels are not its best scores."""
    refused = [(item, answer.error) for item, answer in judge.pairs if answer.answer is None]
    for item, error in refused:
        try:
            session.run(item.inputs)
        except EdgemlError:
            continue
        yield f"the original refuses rows that the bundle answers: {' '.join(error.split())[:ERROR_CHARS]}"
        break
    if judge.rounded:
        yield f"the original answers {judge.rounded} of {len(judge.given)} rows otherwise when float32 rounds them"
    if is_classifier(estimator) and (count := estimators.unlike_best(estimator, judge.given)):
        yield f"the original's predict gives another label than its best score for {count} of {len(judge.given)} rows"


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64" if name == "label" else "float32", shape=(-1, array.shape[-1]))


def _postprocess(estimator: Any, output: str, *_: str) -> Postprocess:  # noqa: ANN401 -- as above
    if not is_classifier(estimator):
        return TensorOutput()
    return Classes(output=output, labels=tuple(estimators.classes(estimator)), activation="none")

"""The oracle of an estimator: its own `predict_proba`, `decision_function`, `predict` or `transform` on rows as given.

It is asked in this process. A function that trains without a fixed seed makes another estimator each time, and one in
memory reaches no other process without a pickle. Rows are a data frame, an array, or a list of texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import sklearn
from sklearn.base import is_classifier, is_outlier_detector

from edgeml.oracle.hard_items import LONG_CHARS, TEXTS
from edgeml.oracle.protocol import LibraryAnswer
from edgeml_core.errors import UsageError
from edgeml_runtime.tensors import Array

#: Rows of the operator that are changed into hard ones, and their columns; each change makes a row.
CHANGED_ROWS: Final = 2
CHANGED_COLUMNS: Final = 12
#: Times the range of a column.
BEYOND: Final = 10
#: A text that no column of categories has.
UNKNOWN: Final = "\N{GRINNING FACE} unseen"
#: Characters of a library's error.
ERROR_CHARS: Final = 300
#: Libraries of boosted models; all other estimators answer to scikit-learn.
LIBRARIES: Final = ("xgboost", "lightgbm", "catboost")


def outputs(estimator: Any, rows: Any) -> dict[str, Array]:  # noqa: ANN401 -- scikit-learn has no types
    """Ask for all that an estimator answers of rows.

    Returns:
        By name, arrays [rows, values]: `probabilities` of a classifier, or its `scores`; `label` and `scores` of a
        detector of outliers; `label` of clusters, int64; else `variable`, the numbers predicted or transformed.

    Raises:
        UsageError: `model-unsupported`, when a classifier gives no score for each class.
        Exception: the library's own, when it can't take the rows.
    """
    if is_classifier(estimator):
        name, values = _class_scores(estimator, rows)
        if not isinstance(values, list) and values.shape == (len(rows), len(classes(estimator))):
            return {name: values}
        message = f"{type(estimator).__name__} gives no score for each of its classes"
        raise UsageError("model-unsupported", message, "export one classifier for each target column")
    if is_outlier_detector(estimator):
        found = {"label": estimator.predict(rows), "scores": estimator.decision_function(rows)}
    elif getattr(estimator, "_estimator_type", "") == "clusterer" or hasattr(estimator, "cluster_centers_"):
        found = {"label": estimator.predict(rows)}
    else:
        found = {"variable": (estimator.predict if hasattr(estimator, "predict") else estimator.transform)(rows)}
    return {name: _matrix(values, len(rows)) for name, values in found.items()}


def classes(estimator: Any) -> list[str]:  # noqa: ANN401 -- as above
    """List a classifier's labels, in the order of its scores."""
    return [str(label) for label in estimator.classes_]


def unlike_best(estimator: Any, rows: Any) -> int:  # noqa: ANN401 -- as above
    """Count the rows whose predicted label is not the one with the highest score."""
    (scores,) = outputs(estimator, rows).values()
    best = [classes(estimator)[at] for at in scores.argmax(axis=1)]
    return sum(one != str(other) for one, other in zip(best, np.ravel(estimator.predict(rows)), strict=True))


def _class_scores(estimator: Any, rows: Any) -> tuple[str, Any]:  # noqa: ANN401 -- as above
    if hasattr(estimator, "predict_proba"):
        found = estimator.predict_proba(rows)
        return "probabilities", found if isinstance(found, list) else np.asarray(found)
    if not hasattr(estimator, "decision_function"):
        message = f"{type(estimator).__name__} gives labels only, no scores"
        raise UsageError("model-unsupported", message, "use one with predict_proba, such as voting='soft'")
    values = np.asarray(estimator.decision_function(rows))
    return "scores", np.stack([-values, values], axis=1) if values.ndim == 1 else values


def _matrix(values: Any, count: int) -> Array:  # noqa: ANN401 -- as above
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    return dense.reshape(count, -1)


def library(estimator: Any) -> str:  # noqa: ANN401 -- as above
    """Name the library that answers, with its version: that of the last step."""
    while steps := getattr(estimator, "steps", None):
        estimator = steps[-1][1]
    package = type(estimator).__module__.partition(".")[0]
    if package in LIBRARIES:  # XGBoost has more than one distribution
        return f"{package} {sys.modules[package].__version__}"
    return f"scikit-learn {sklearn.__version__}"


def answers(estimator: Any, rows: Any) -> list[LibraryAnswer]:  # noqa: ANN401 -- as above
    """Answer rows at once; where the library refuses them, in halves, down to the single row that it refuses."""
    try:
        return list(_answers(estimator, rows))
    except Exception as error:  # noqa: BLE001 -- each library has its own
        count = len(rows)
        if count == 1:
            return [LibraryAnswer(error=f"{type(error).__name__}: {error}"[:ERROR_CHARS])]
    halves = list(range(count // 2)), list(range(count // 2, count))
    return [it for half in halves for it in answers(estimator, part(rows, half))]


def _answers(estimator: Any, rows: Any) -> Iterator[LibraryAnswer]:  # noqa: ANN401 -- as above
    found = outputs(estimator, rows)
    if not is_classifier(estimator):
        for at in range(len(rows)):
            row = {name: values[at : at + 1].tolist() for name, values in found.items()}
            yield LibraryAnswer(answer={"outputs": row})
        return
    labels = classes(estimator)
    (scores,) = found.values()
    for row in scores.tolist():
        pairs = zip(labels, row, strict=True)
        yield LibraryAnswer(answer={"labels": [{"label": label, "score": score} for label, score in pairs]})


def part(rows: Any, indices: list[int]) -> Any:  # noqa: ANN401 -- as above
    """Take some rows, in the form that all have."""
    if hasattr(rows, "iloc"):
        return rows.iloc[indices]
    return [rows[at] for at in indices] if isinstance(rows, list) else rows[indices]


def hard_rows(rows: Any) -> Any:  # noqa: ANN401 -- as above
    """Make rows that conversions get wrong, in the form of those given.

    Numbers become missing, zero, or ten times the column's range away from it; texts become unknown and empty. A list
    of texts also gets its first ones in capitals.

    Args:
        rows: a data frame, an array [rows, columns], or texts.
    """
    if isinstance(rows, list):
        capitals = [it.upper() for it in rows[:CHANGED_ROWS]]
        return [*TEXTS, "", "  ", (" ".join(TEXTS) * 20)[:LONG_CHARS], *capitals]
    columns = np.linspace(0, rows.shape[1] - 1, min(CHANGED_COLUMNS, rows.shape[1])).astype(int).tolist()
    changes = [
        (row, column, value)
        for row in range(min(CHANGED_ROWS, len(rows)))
        for column in dict.fromkeys(columns)
        for value in _hard_values(rows, column)
    ]
    changed = part(rows, [row for row, _, _ in changes])
    if not hasattr(changed, "iloc"):
        for at, (_, column, value) in enumerate(changes):
            changed[at, column] = value
        return changed
    changed = changed.copy()
    for number in range(rows.shape[1]):
        values = changed.iloc[:, number].to_numpy().copy()
        for at, (_, column, value) in enumerate(changes):
            if column == number:
                values[at] = value
        changed.isetitem(number, values)
    return changed


def _hard_values(rows: Any, column: int) -> list[Any]:  # noqa: ANN401 -- as above
    values = np.asarray(rows.iloc[:, column] if hasattr(rows, "iloc") else rows[:, column])
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        return [np.nan, 0.0, low - BEYOND * (high - low), high + BEYOND * (high - low)]
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        return [0, high + BEYOND * (high - low)]
    if values.dtype.kind == "b":
        return [True, False]
    return [UNKNOWN, ""] if all(isinstance(it, str) for it in values) else []

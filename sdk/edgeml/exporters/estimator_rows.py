"""An estimator's rows as tensors, and back: one tensor of numbers, or one tensor for each column of a table.

A data frame and an array of objects have a tensor [rows, 1] for each column, named after it. Texts have one such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from edgeml_core.errors import UsageError
from edgeml_core.manifest import DType, TensorSpec
from edgeml_runtime.tensors import NUMPY_TYPES, ONE_COLUMN, Array

#: The input of an array of numbers, and of texts.
NUMBERS: Final = "input"
TEXT: Final = "text"
#: Whole numbers up to it are exact in float32.
EXACT_MAX: Final = 2**24
_HINT: Final = "return (fitted estimator, rows): a data frame, an array, or a list of texts"


class Table:
    """The form of an estimator's rows.

    Args:
        rows: as the operator gave them; `rows` holds them as a data frame, an array [rows, columns] or a list of texts.

    Raises:
        UsageError: `model-unsupported`, when a column is neither numbers nor texts, or misses texts;
            `model-unreadable`, when there are no rows.
    """

    def __init__(self, rows: Any) -> None:  # noqa: ANN401 -- the operator's
        self.rows = _normalized(rows)
        if not len(self.rows):
            raise UsageError("model-unreadable", "there are no rows to predict", _HINT)
        self.specs = tuple(self._specs())

    def _specs(self) -> Iterator[TensorSpec]:
        if not self._has_columns:
            yield TensorSpec(name=NUMBERS, dtype="float32", shape=(-1, self.rows.shape[1]))
            return
        for name, values in self._columns(self.rows):
            yield TensorSpec(name=name, dtype=_dtype(name, values), shape=ONE_COLUMN)

    @property
    def _has_columns(self) -> bool:
        return isinstance(self.rows, list) or hasattr(self.rows, "iloc") or self.rows.dtype == object

    def _columns(self, rows: Any) -> Iterator[tuple[str, Array]]:  # noqa: ANN401 -- as above
        if isinstance(rows, list):
            yield TEXT, np.array(rows, dtype=object)
        elif hasattr(rows, "iloc"):
            for at, name in enumerate(rows.columns):
                yield str(name), rows.iloc[:, at].to_numpy()
        else:
            for at in range(rows.shape[1]):
                yield f"column_{at}", _tight(rows[:, at])

    def tensors(self, rows: Any) -> dict[str, Array]:  # noqa: ANN401 -- as above
        """Convert rows of this form to tensors of `specs`.

        Raises:
            ValueError, TypeError: a value doesn't fit its column's data type.
        """
        if not self._has_columns:
            return {NUMBERS: np.asarray(rows, dtype=np.float32)}
        found = dict(self._columns(rows))
        return {spec.name: _column(found[spec.name], spec.dtype) for spec in self.specs}

    def restore(self, tensors: Mapping[str, Array]) -> Any:  # noqa: ANN401 -- as above
        """Convert tensors of `specs` to rows of this form; numbers have the operator's data type where they fit it."""
        if not self._has_columns:
            return _as_given(tensors[NUMBERS], self.rows.dtype)
        columns = [tensors[spec.name].ravel() for spec in self.specs]
        if isinstance(self.rows, list):
            return columns[0].tolist()
        if not hasattr(self.rows, "iloc"):
            return np.array([list(row) for row in zip(*(it.tolist() for it in columns), strict=True)], dtype=object)
        given = [self.rows.iloc[:, at].dtype for at in range(len(columns))]
        own = [_as_given(values, dtype) for values, dtype in zip(columns, given, strict=True)]
        frame = type(self.rows)(dict(enumerate(own)))
        frame.columns = self.rows.columns
        return frame


def _normalized(rows: Any) -> Any:  # noqa: ANN401 -- as above
    if hasattr(rows, "iloc"):
        if rows.ndim == 1:
            return [str(it) for it in rows]
        if len({str(name) for name in rows.columns}) < rows.shape[1]:
            raise UsageError("model-unsupported", "two columns have one name", "rename one of them")
        return rows
    if hasattr(rows, "toarray"):
        rows = rows.toarray()
    array = np.asarray(rows)
    if array.ndim == 1 and array.dtype.kind in "UO" and all(isinstance(it, str) for it in array):
        return array.tolist()
    if array.dtype.kind == "U":  # numbers among texts would be texts, too
        array = np.array(rows, dtype=object)
    if array.ndim != len(ONE_COLUMN) or array.dtype.kind not in "biufO":
        raise UsageError("model-unreadable", f"rows of shape {list(array.shape)} and {array.dtype} are no table", _HINT)
    return array


def _tight(values: Array) -> Array:
    """Give a column of objects the data type of its values."""
    if all(isinstance(it, str) for it in values):
        return values
    try:
        return np.array(values.tolist(), dtype=np.float64)
    except (ValueError, TypeError):
        return values


def _dtype(name: str, values: Array) -> DType:
    if values.dtype.kind in "iu":
        return "float32" if np.abs(values.astype(np.float64)).max(initial=0) <= EXACT_MAX else "int64"
    if values.dtype.kind in "bf":
        return "float32"
    if values.dtype == object and all(isinstance(it, str) for it in values):
        return "string"
    other = next((it for it in values.tolist() if not isinstance(it, str)), None)
    message = f"column {name!r} has {other!r} of type {type(other).__name__}; columns hold numbers or texts"
    raise UsageError("model-unsupported", message, "convert it before the estimator, and fill in missing texts")


def _column(values: Array, dtype: DType) -> Array:
    if dtype == "string" and not all(isinstance(it, str) for it in values):
        raise TypeError("a text is missing")
    return values.astype(NUMPY_TYPES[dtype]).reshape(-1, 1)


def _as_given(values: Array, dtype: Any) -> Array:  # noqa: ANN401 -- pandas has data types of its own
    kind = getattr(dtype, "kind", "O")
    if kind == "f":
        return values.astype(dtype)
    if kind in "iub" and np.array_equal(values, values.astype(np.int64)):
        return values.astype(dtype)
    return values.astype(np.float64) if values.dtype.kind == "f" else values

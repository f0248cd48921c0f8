"""Tensors in their three forms, numpy arrays, golden bytes and nested JSON lists, and checks against a TensorSpec.

No inference here, and no cast loses more than a JSON number's excess digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from edgeml_core.errors import UsageError
from edgeml_core.golden import ITEM_BYTES, TensorData, join_strings, strings
from edgeml_core.manifest import DType, TensorSpec

Array: TypeAlias = NDArray[Any]

#: A context in which numpy doesn't warn of casts; values that don't fit are found later. `errstate` takes longer.
_NO_WARNINGS: Final = copy_context()
_NO_WARNINGS.run(np.seterr, invalid="ignore", over="ignore")

#: Elements of one tensor in a JSON request: 64 MiB as float32.
NESTED_MAX_ELEMENTS: Final = 16 * 1024 * 1024
#: The shape of a table's column.
ONE_COLUMN: Final = (-1, 1)
#: numpy's dtype for each data type of a model; made once, since making one takes longer than comparing two. onnxruntime
#: takes strings as Python's, in an array of objects.
NUMPY_TYPES: Final[dict[DType, np.dtype[Any]]] = {
    name: np.dtype(object if name == "string" else name) for name in get_args(DType)
}


def to_data(array: Array) -> TensorData:
    """Encode an array as golden bytes: row-major, little-endian.

    Args:
        array: any shape, of a dtype that golden files know; of objects, Python's strings.

    Raises:
        UsageError: `model-unsupported`, when a bundle can't hold its data type.
    """
    if array.dtype == object and all(isinstance(it, str) for it in array.flat):
        return TensorData(dtype="string", shape=array.shape, data=join_strings(array.ravel().tolist()))
    if array.dtype.name not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise UsageError("model-unsupported", f"tensors of {array.dtype.name} can't go into a bundle", f"use {known}")
    flat = np.ascontiguousarray(array)
    return TensorData(
        dtype=array.dtype.name,
        shape=array.shape,
        data=flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes(),
    )


def from_data(tensor: TensorData) -> Array:
    """Decode golden bytes to an array of their dtype and shape; `edgeml_core.golden.decode` has checked the length."""
    if tensor.dtype == "string":
        return np.array(list(strings(tensor.data)), dtype=object).reshape(tensor.shape)
    dtype = np.dtype(tensor.dtype)
    return np.frombuffer(tensor.data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tensor.shape)


def from_nested(spec: TensorSpec, value: object, *, missing: bool = False) -> Array:
    """Convert a nested JSON list to an array of the spec's dtype and any shape.

    Args:
        spec: gives the data type; the shape is checked by `check_inputs`.
        value: numbers, booleans or texts, nested evenly. One alone stands for one row of one column.
        missing: whether null stands for NaN, in a tensor of floats.

    Raises:
        UsageError: `input-invalid`, when it is ragged, has other values, or a number doesn't fit the data type.
    """
    if not isinstance(value, list) and spec.shape == ONE_COLUMN:
        value = [[value]]
    if spec.dtype == "string":
        return _texts(spec, value)
    try:
        found = np.asarray(value)
        if missing and found.dtype == object and spec.dtype in ("float32", "float16"):
            found = np.asarray(value, dtype=np.float64)  # None becomes NaN
        array = _NO_WARNINGS.copy().run(found.astype, NUMPY_TYPES[spec.dtype], casting="unsafe")
    except (ValueError, TypeError, OverflowError) as error:
        raise _unreadable(spec, str(error)) from error
    if found.dtype.kind not in "biuf" or found.size > NESTED_MAX_ELEMENTS:
        raise _unreadable(spec, f"it is not an even nesting of at most {NESTED_MAX_ELEMENTS} numbers")
    if spec.dtype not in ("float32", "float16") and not np.array_equal(array, found):
        raise _unreadable(spec, f"a number in it is not a {spec.dtype}")
    return array


def _texts(spec: TensorSpec, value: object) -> Array:
    try:
        found = np.array(value, dtype=object)
    except ValueError as error:
        raise _unreadable(spec, str(error)) from error
    if found.size > NESTED_MAX_ELEMENTS or not all(isinstance(it, str) for it in found.flat):
        raise _unreadable(spec, f"it is not an even nesting of at most {NESTED_MAX_ELEMENTS} texts")
    return found


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Check arrays against the dtypes and shapes of the model's inputs, where -1 is any length.

    Args:
        specs: of the model's inputs.
        inputs: arrays by tensor name.

    Raises:
        UsageError: `input-invalid`, naming every input that is missing, unknown or of another type or shape.
    """
    if problems := list(_problems(specs, inputs)):
        hint = "the model takes " + ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
        raise UsageError("input-invalid", "; ".join(problems), hint)


def _problems(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> Iterator[str]:
    known = [spec.name for spec in specs]
    yield from [f"there is no input {name!r}" for name in inputs if name not in known]
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            yield f"input {spec.name!r} is missing"
        elif array.dtype != NUMPY_TYPES[spec.dtype]:
            kind = "string" if array.dtype == object else array.dtype.name
            yield f"input {spec.name!r} is {kind}, not {spec.dtype}"
        elif not fits(array.shape, spec.shape):
            yield f"input {spec.name!r} has shape {list(array.shape)}, not {list(spec.shape)}"


def stack(sets: Sequence[Mapping[str, Array]], rows_max: int) -> tuple[dict[str, Array], list[int]] | None:
    """Concatenate several sets of inputs along their first axis, the row.

    Args:
        sets: each has arrays by tensor name, whose first axes have one length.
        rows_max: rows of all sets together.

    Returns:
        The inputs, and the number of rows of each set. None when there are too many rows, or names, dtypes or shapes
        beyond the first axis differ.
    """
    kinds = [{name: (it.dtype, it.shape[1:]) for name, it in one.items()} for one in sets]
    counts = [{it.shape[0] if it.ndim else 0 for it in one.values()} for one in sets]
    rows = [next(iter(count)) for count in counts if len(count) == 1]
    if len(rows) < len(sets) or min(rows) < 1 or sum(rows) > rows_max or any(kind != kinds[0] for kind in kinds):
        return None
    return {name: np.concatenate([one[name] for one in sets]) for name in sets[0]}, rows


def slices(inputs: Mapping[str, Array], least_rows: int, most_bytes: int) -> list[dict[str, Array]]:
    """Cut inputs along their first axis, the row.

    Args:
        inputs: arrays by tensor name.
        least_rows: of a slice.
        most_bytes: of a slice that has more rows than those.

    Returns:
        The slices in order; one with all inputs where their first axes differ or are short.
    """
    lengths = {it.shape[0] if it.ndim else 0 for it in inputs.values()}
    rows = lengths.pop() if len(lengths) == 1 else 0
    row_bytes = sum(it.nbytes for it in inputs.values()) // max(1, rows)
    step = max(least_rows, most_bytes // max(1, row_bytes))
    if rows <= step:
        return [dict(inputs)]
    return [{name: it[start : start + step] for name, it in inputs.items()} for start in range(0, rows, step)]


def unstack(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]] | None:
    """Split outputs along their first axis.

    Args:
        outputs: arrays by tensor name, of a run on the inputs from `stack`.
        rows: the number of rows of each set.

    Returns:
        The outputs of each set; None when an output doesn't have one row for each row of the inputs.
    """
    if any(it.shape[:1] != (sum(rows),) for it in outputs.values()):
        return None
    ends = np.cumsum(rows)[:-1]
    parts = {name: np.split(it, ends) for name, it in outputs.items()}
    return [{name: part[index] for name, part in parts.items()} for index in range(len(rows))]


def fits(shape: Sequence[int], spec: Sequence[int]) -> bool:
    """Return whether a shape fits a spec's, where -1 is any length."""
    return len(shape) == len(spec) and all(length in (-1, have) for have, length in zip(shape, spec, strict=True))


def _unreadable(spec: TensorSpec, why: str) -> UsageError:
    hint = f"send evenly nested lists of {spec.dtype} with shape {list(spec.shape)}, -1 being any length"
    return UsageError("input-invalid", f"input {spec.name!r} can't be read: {why}", hint)

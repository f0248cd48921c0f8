"""Rows of tables as tensors, and back; hard rows made of them."""

import numpy as np
import pandas as pd
import pytest

from edgeml.exporters.estimator_rows import Table
from edgeml.oracle import estimators
from edgeml_core.errors import UsageError

FRAME = pd.DataFrame(
    {
        "age": [20, 30],
        "id": [2**40 + 1, 7],
        "fare": [1.5, np.nan],
        "on": [True, False],
        "city": ["Köln", ""],
        "deck": pd.Categorical(["a", "b"]),
    }
)


def test_frame_has_an_input_for_each_column():
    """Whole numbers that float32 can't hold stay whole."""
    kinds = {spec.name: spec.dtype for spec in Table(FRAME).specs}
    assert list(kinds.items()) == [
        ("age", "float32"),
        ("id", "int64"),
        ("fare", "float32"),
        ("on", "float32"),
        ("city", "string"),
        ("deck", "string"),
    ]
    assert {spec.shape for spec in Table(FRAME).specs} == {(-1, 1)}


def test_frame_survives_as_tensors():
    """The estimator gets back the values and the data types of its numbers."""
    table = Table(FRAME)
    back = table.restore(table.tensors(FRAME))
    assert back.to_dict("list")["id"] == [2**40 + 1, 7]
    pd.testing.assert_frame_equal(back[["age", "id", "fare", "on"]], FRAME[["age", "id", "fare", "on"]])
    assert back["deck"].tolist() == ["a", "b"]
    assert back["city"].tolist() == ["Köln", ""]


def test_fraction_in_a_column_of_whole_numbers_is_not_cut():
    """A client may send 30.5 for an age."""
    table = Table(FRAME)
    tensors = table.tensors(FRAME) | {"age": np.float32([[30.5], [1]])}
    assert table.restore(tensors)["age"].tolist() == [30.5, 1.0]


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"when": pd.to_datetime(["2026-01-01"])}),
        pd.DataFrame({"city": ["Rom", None]}),
        pd.DataFrame({"it": [{"a": 1}]}),
        np.array([[1, {}]], dtype=object),
        [],
        np.zeros((2, 2, 2)),
        3,
    ],
    ids=["date", "missing text", "dictionary", "mixed", "empty", "three axes", "number"],
)
def test_rows_that_are_no_table_are_refused(rows):
    """By the column's name and the value, where there is one."""
    with pytest.raises(UsageError) as caught:
        Table(rows)
    assert caught.value.code in ("model-unreadable", "model-unsupported")


def test_hard_rows_change_each_column_and_leave_the_given_ones():
    """Missing, zero, far outside; unknown and empty texts."""
    before = FRAME.copy()
    hard = estimators.hard_rows(FRAME)
    pd.testing.assert_frame_equal(FRAME, before)
    assert hard["fare"].isna().any()
    assert {estimators.UNKNOWN, ""} <= set(hard["city"])
    assert hard["age"].max() == 30 + 10 * (30 - 20)


def test_hard_rows_of_an_array_and_of_texts_have_their_form():
    """Each alone can be given to the estimator."""
    numbers = estimators.hard_rows(np.float64([[1, 2], [3, 4]]))
    assert numbers.dtype == np.float64
    assert np.isnan(numbers).any()
    assert all(isinstance(it, str) for it in estimators.hard_rows(["a"]))

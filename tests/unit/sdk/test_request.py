"""The request of an export: bad values are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError

OUT = Path("out")


@pytest.mark.parametrize(
    "change",
    [
        {"targets": ()},
        {"max_drop": 1.5},
        {"max_drop": -0.1},
        {"name": "Not A Name"},
        {"version": "1-beta"},
        {"max_size_bytes": 0},
        {"evaluate_rows": 0},
        {"max_latency_ms": -1.0},
        {"recipe": "dynamic-s9"},
        {"recipe": "dynamic-s8", "quantize": "static"},
    ],
)
def test_a_bad_request_is_refused(change: dict[str, object]):
    """Before anything is loaded."""
    with pytest.raises(UsageError) as caught:
        ExportRequest(**{"model": "m", "targets": ("rpi4",), "output": OUT} | change)
    assert caught.value.code == "usage"


def test_a_limit_that_is_not_above_zero_is_named_as_it_is_typed():
    """With its own option in the hint."""
    with pytest.raises(UsageError) as caught:
        ExportRequest(model="m", targets=("rpi4",), output=OUT, evaluate_rows=0)
    assert caught.value.message == "--evaluate-rows 0 is not above 0"
    assert caught.value.hint == "give --evaluate-rows a number above 0"

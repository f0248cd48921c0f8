"""Memoized results."""

import pytest

from edgeml.memo import Memo


def test_memo_makes_each_result_once():
    """By key, also a result that is None."""
    once, made = Memo(), []
    for key in ("a", "b", "a", "a"):
        assert once(key, lambda key=key: made.append(key)) is None
    assert made == ["a", "b"]


def test_memo_returns_the_same_object():
    """Sessions and models are shared, not copied."""
    once = Memo()
    assert once(("fp32", "onnx"), list) is once(("fp32", "onnx"), list)
    assert once(("fp32", "onnx"), list) is not once(("fp32", "tflite"), list)


def test_memo_error_is_not_kept():
    """A converter that ran out of disk may succeed later."""
    once = Memo()
    with pytest.raises(OSError, match="full"):
        once("a", fail)
    assert once("a", lambda: 1) == 1


def fail() -> int:
    """Fail once."""
    raise OSError("full")

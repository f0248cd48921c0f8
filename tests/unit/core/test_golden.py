"""The golden file."""

import msgspec
import pytest

from edgeml_core import golden
from edgeml_core.errors import RejectedError
from support.samples import GOLDEN


def test_cases_survive_their_encoding():
    """What is decoded is what was encoded."""
    assert golden.encode(golden.decode(GOLDEN)) == GOLDEN


def test_strings_survive_their_encoding():
    """Texts of any script and length, and none."""
    tensor = golden.TensorData(dtype="string", shape=(3, 1), data=golden.join_strings(["Köln", "", "水"]))
    (case,) = golden.decode(golden.encode((golden.GoldenCase(inputs={"x": tensor}, outputs={}),)))
    assert list(golden.strings(case.inputs["x"].data)) == ["Köln", "", "水"]


@pytest.mark.parametrize("data", [b"", b"\1", b"\2\0\0\0a", b"\1\0\0\0\xff", b"\1\0\0\0a\0\0\0\0"])
def test_strings_that_do_not_fit_their_shape_are_refused(data):
    """Too few, cut in a length or in a text, not UTF-8, too many."""
    tensor = golden.TensorData(dtype="string", shape=(1,), data=data)
    with pytest.raises(RejectedError):
        golden.decode(golden.encode((golden.GoldenCase(inputs={"x": tensor}, outputs={}),)))


WRONG = golden.TensorData(dtype="float32", shape=(2, 2), data=b"\0" * 12)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x91",
        GOLDEN.replace(b"inputs", b"in\x90uts"),
        GOLDEN[:-1],
        golden.encode(()),
        golden.encode(golden.decode(GOLDEN) * 65),
        golden.encode((golden.GoldenCase(inputs={"x": WRONG}, outputs={}),)),
        golden.encode((golden.GoldenCase(inputs={"x": msgspec.structs.replace(WRONG, shape=(-1, -3))}, outputs={}),)),
    ],
    ids=["empty", "cut", "not-utf-8", "short", "no-case", "many", "wrong-bytes", "negative-shape"],
)
def test_bad_files_are_refused(data):
    """A tensor whose bytes don't fit its shape never reaches a runtime."""
    with pytest.raises(RejectedError) as caught:
        golden.decode(data)
    assert caught.value.code == "bundle-format"


def test_a_file_over_the_bound_is_refused_unread(monkeypatch):
    """The bound is checked before a byte is parsed."""
    monkeypatch.setattr(golden, "GOLDEN_MAX_BYTES", 3)
    with pytest.raises(RejectedError, match="longer than"):
        golden.decode(GOLDEN)

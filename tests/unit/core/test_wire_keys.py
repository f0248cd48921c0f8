"""Keys of chunks and differences."""

import pytest

from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError

A, B = (wire_keys.chunk_id(chunks.sha256(content)) for content in (b"a", b"b"))


def test_a_key_names_a_chunk_or_its_difference_to_another():
    """What is joined is parted again."""
    assert wire_keys.ids(wire_keys.join(A)) == (A,)
    assert wire_keys.ids(wire_keys.join(A, B)) == (A, B)


@pytest.mark.parametrize(
    "text", ["", "/", A[:-1], A + "0", A.upper(), f"{A}/", f"/{A}", f"{A}/{A}/{A}", f"{A}\n", "../" + A]
)
def test_anything_else_is_no_key(text):
    """Keys become topics and file names: nothing slips through."""
    with pytest.raises(RejectedError) as caught:
        wire_keys.ids(text)
    assert caught.value.code == "document-format"

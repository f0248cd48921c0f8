"""Several answers in one payload."""

from hypothesis import given
from hypothesis import strategies as st

from edgeml_core import multi_chunk
from edgeml_core.chunks import WIRE_CHUNK_MAX_BYTES

PAYLOADS = st.binary(min_size=1, max_size=multi_chunk.SMALL_MAX_BYTES)


@given(st.dictionaries(st.text("0123456789abcdef/", min_size=32), PAYLOADS, max_size=multi_chunk.ENTRIES_MAX))
def test_what_is_joined_is_split(answers):
    """Each payload is found by its key."""
    split = multi_chunk.split(multi_chunk.join(list(answers.items())))
    assert split == {multi_chunk.name(key): payload for key, payload in answers.items()}


@given(st.binary(max_size=300))
def test_whatever_comes_can_be_split(payload):
    """Into parts of it, or nothing."""
    assert sum(map(len, multi_chunk.split(payload).values())) <= len(payload)


def test_a_joined_payload_is_no_longer_than_a_chunk():
    """At its longest."""
    longest = [(f"{number:032x}", bytes(multi_chunk.SMALL_MAX_BYTES)) for number in range(multi_chunk.ENTRIES_MAX)]
    assert len(multi_chunk.join(longest)) <= WIRE_CHUNK_MAX_BYTES


def test_a_joined_payload_that_is_cut_has_no_answers():
    """Not even those before the cut: it is refused as a whole."""
    joined = multi_chunk.join([("a" * 32, b"first"), ("b" * 32, b"second")])
    assert multi_chunk.split(joined[:-1]) == {}
    assert multi_chunk.split(joined[:4]) == {}

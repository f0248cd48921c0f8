"""The cost of JSON in bodies: counted before anything is built."""

import json
import tracemalloc

import pytest

from edgeml_agent.http_api import json_body
from edgeml_agent.http_api.json_body import CONTAINERS_MAX, VALUES_MAX
from edgeml_core.errors import UsageError


def listed(value, count):
    """A list of `count` equal values, as a list in an object."""
    return b'{"a":[' + b",".join([value] * count) + b"]}"


@pytest.mark.parametrize(
    ("value", "most"), [(b"[]", CONTAINERS_MAX - 2), (b"{}", CONTAINERS_MAX - 2), (b"1", VALUES_MAX)]
)
def test_decode_reads_as_many_values_as_it_may(value, most):
    """And refuses more."""
    assert len(json_body.decode(listed(value, most))["a"]) == most
    with pytest.raises(UsageError) as caught:
        json_body.decode(listed(value, most + 2))
    assert caught.value.code == "body-too-large"


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'""'])
def test_decode_refuses_costly_json_before_it_takes_memory(value):
    """Half a gigabyte it would be."""
    body = listed(value, 15 * 2**20 // (len(value) + 1))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="more than"):
            json_body.decode(memoryview(body))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(body) / 4


def test_decode_reads_files_and_texts_of_any_length():
    """They are one value, however long: up to the limit of bodies."""
    value = {"image": "A" * 15_000_000, "texts": ["One, two, three. " * 5000] * 20}
    assert json_body.decode(json.dumps(value).encode()) == value


@pytest.mark.parametrize("body", [b"{", b"[" * 50_000, b'"\xff"', b"", b"[1,]"])
def test_decode_raises_one_error_for_all_that_is_no_json(body):
    """A ValueError, which the APIs put into their own words."""
    with pytest.raises(ValueError, match=r"."):
        json_body.decode(body)

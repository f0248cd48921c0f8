"""The Open Inference Protocol's messages: every way to write a tensor, and every way to write one wrong."""

import json

import numpy as np
import pytest

from edgeml_agent.serve import oip_codec
from edgeml_core.errors import UsageError


def a_request(**tensor):
    """The body of a request with one input."""
    given = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]} | tensor
    return json.dumps({"inputs": [given]}).encode()


def arrays(body):
    """The arrays in a body."""
    return oip_codec.decode(body, None).arrays()


@pytest.mark.parametrize("data", [[1, 2, 3, 4.5], [[1, 2], [3, 4.5]]])
def test_nested_and_flat_data_are_the_same_tensor(data):
    """The protocol allows both, row by row."""
    array = arrays(a_request(data=data))["x"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize("dtype", oip_codec.DATATYPES)
def test_each_datatype_survives_the_way_there_and_back(dtype):
    """What is decoded and encoded again is what was sent."""
    values = [True, False, True, True] if dtype == "bool" else [0, 1, 2, 127]
    request = oip_codec.decode(a_request(datatype=oip_codec.DATATYPES[dtype], data=values), None)
    assert request.arrays()["x"].dtype == dtype
    answer = json.loads(oip_codec.encode(request, request.arrays(), model_name="m", model_version="2"))
    assert answer == {
        "model_name": "m",
        "model_version": "2",
        "outputs": [{"name": "x", "datatype": oip_codec.DATATYPES[dtype], "shape": [2, 2], "data": values}],
    }


def test_large_integers_are_exact():
    """INT64 doesn't go through floats."""
    values = [2**63 - 1, -(2**63), 2**53 + 1, 0]
    assert arrays(a_request(datatype="INT64", data=values))["x"].ravel().tolist() == values


def test_an_empty_tensor_is_a_tensor():
    """No rows, but a shape."""
    assert arrays(a_request(shape=[0, 3], data=[]))["x"].shape == (0, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        {"datatype": "FP31"},
        {"datatype": "BYTES", "data": ["a", "b", "c", "d"]},
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [1] * 40, "data": [1]},
        {"shape": [4, 1], "data": [[1, 2], [3, 4]]},
        {"data": [[1, 2], [3]]},
        {"data": ["1", "2", "3", "4"]},
        {"data": [None] * 4},
        {"data": [{}] * 4},
        {"datatype": "INT32", "data": [1.5, 2, 3, 4]},
        {"datatype": "INT32", "data": [2**31, 2, 3, 4]},
        {"datatype": "INT64", "data": [2**63, 2, 3, 4]},
        {"datatype": "UINT8", "data": [-1, 2, 3, 4]},
        {"datatype": "BOOL", "data": [2, 0, 1, 1]},
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(tensor):
    """Nothing is cast, cut or guessed."""
    with pytest.raises(UsageError) as caught:
        arrays(a_request(**tensor))
    assert caught.value.code == "input-invalid"
    assert "'x'" in caught.value.message


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"inputs":[{"name":"x"}]}', b'{"inputs":[],"outputs":"y"}']
)
def test_a_body_that_is_no_request_is_refused(body):
    """Malformed JSON, and JSON of another kind."""
    with pytest.raises(UsageError) as caught:
        oip_codec.decode(body, None)
    assert caught.value.code == "input-invalid"


def test_what_clients_add_is_passed_over():
    """Parameters and kserve's `model_name` change nothing; the id is kept."""
    extra = json.loads(a_request()) | {"id": "7", "model_name": "m", "parameters": {"binary_data_output": True}}
    request = oip_codec.decode(json.dumps(extra).encode(), None)
    assert json.loads(oip_codec.encode(request, {}, model_name="m", model_version="1"))["id"] == "7"


def test_an_input_given_twice_is_refused():
    """Neither of the two is taken silently."""
    twice = json.loads(a_request())["inputs"] * 2
    with pytest.raises(UsageError):
        arrays(json.dumps({"inputs": twice}).encode())


def test_binary_tensors_are_refused_with_the_remedy():
    """A client that sends them by default learns how not to."""
    with pytest.raises(UsageError) as caught:
        oip_codec.decode(a_request() + b"\0" * 16, len(a_request()))
    assert "binary_data=False" in caught.value.hint


def test_only_the_outputs_asked_for_come_back():
    """In the order in which they were asked; one that isn't there is an error."""
    outputs = {name: np.zeros(1, np.float32) for name in "abc"}
    request = oip_codec.InferRequest([], outputs=[oip_codec.RequestedOutput(name) for name in "ca"])
    answer = json.loads(oip_codec.encode(request, outputs, model_name="m", model_version="1"))
    assert [output["name"] for output in answer["outputs"]] == ["c", "a"]
    request = oip_codec.InferRequest([], outputs=[oip_codec.RequestedOutput("z")])
    with pytest.raises(UsageError):
        oip_codec.encode(request, outputs, model_name="m", model_version="1")


def test_what_json_lacks_becomes_null():
    """NaN and infinity are null: the answer stays JSON."""
    outputs = {"y": np.array([np.nan, np.inf, 1.0], np.float32)}
    answer = oip_codec.encode(oip_codec.InferRequest([]), outputs, model_name="m", model_version="1")
    assert json.loads(answer)["outputs"][0]["data"] == [None, None, 1.0]

"""The Open Inference Protocol's messages: every way to write a tensor, and every way to write one wrong."""

import json
import tracemalloc

import numpy as np
import pytest

from edgeml_agent.http_api.oip import codec, tensors
from edgeml_core.errors import UsageError
from edgeml_runtime.tensors import NUMPY_TYPES


def a_request(**tensor):
    """The body of a request with one input."""
    given = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]} | tensor
    return json.dumps({"inputs": [given]}).encode()


def encoded(request, outputs, *, version="1", **options):
    """The JSON of the answer, without the bytes behind it."""
    answer = codec.encode(request, outputs, model_name="m", model_version=version, **options)
    return answer.body[: answer.json_length]


def asking(*outputs, **parameters):
    """A request for these outputs."""
    body = {"inputs": [], "outputs": list(outputs), "parameters": parameters}
    return codec.decode(json.dumps(body).encode(), None)


def in_binary(*tensors):
    """A request whose tensors' bytes follow its JSON, and how long that is."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, datatype, shape, data in tensors
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(tensor[-1] for tensor in tensors), len(head)


def arrays(body):
    """The arrays in a body."""
    return codec.decode(body, None).arrays()


@pytest.mark.parametrize("data", [[1, 2, 3, 4.5], [[1, 2], [3, 4.5]]])
def test_nested_and_flat_data_are_the_same_tensor(data):
    """The protocol allows both, row by row."""
    array = arrays(a_request(data=data))["x"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize("dtype", tensors.DATATYPES)
def test_each_datatype_survives_the_way_there_and_back(dtype):
    """What is decoded and encoded again is what was sent."""
    values = {"bool": [True, False, True, True], "string": ["", "Köln", "a\nb", "水"]}.get(dtype, [0, 1, 2, 127])
    request = codec.decode(a_request(datatype=tensors.DATATYPES[dtype], data=values), None)
    assert request.arrays()["x"].dtype == NUMPY_TYPES[dtype]
    answer = json.loads(encoded(request, request.arrays(), version="2"))
    assert answer == {
        "model_name": "m",
        "model_version": "2",
        "outputs": [{"name": "x", "datatype": tensors.DATATYPES[dtype], "shape": [2, 2], "data": values}],
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
        {"datatype": "BYTES", "data": ["a", "b", 3, "d"]},
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [1] * 40, "data": [1]},
        {"shape": [0, 2**62], "data": []},
        {"shape": [2**62, 0], "data": []},
        {"shape": [0, *[2**30] * 3], "data": []},
        {"shape": [2**70, 0], "data": [], "datatype": "BYTES"},
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
    "body", [b"", b"{}", b"[]", b"\xff", b"[" * 50_000, b'{"inputs":[{"name":"x"}]}', b'{"inputs":[],"outputs":"y"}']
)
def test_a_body_that_is_no_request_is_refused(body):
    """Malformed JSON, and JSON of another kind."""
    with pytest.raises(UsageError) as caught:
        codec.decode(body, None)
    assert caught.value.code == "input-invalid"


def test_what_clients_add_is_passed_over():
    """Parameters and kserve's `model_name` change nothing; the id is kept."""
    extra = json.loads(a_request()) | {"id": "7", "model_name": "m", "parameters": {"priority": 3}}
    request = codec.decode(json.dumps(extra).encode(), None)
    assert json.loads(encoded(request, {}))["id"] == "7"


def test_an_input_given_twice_is_refused():
    """Neither of the two is taken silently."""
    twice = json.loads(a_request())["inputs"] * 2
    with pytest.raises(UsageError):
        arrays(json.dumps({"inputs": twice}).encode())


@pytest.mark.parametrize("dtype", sorted(tensors.DATATYPES.keys() - {"string"}))
def test_each_datatype_survives_in_binary(dtype):
    """Little-endian, row by row, there and back."""
    sent = np.array([[1, 0], [1, 1]], dtype)
    body, length = in_binary(
        ("a", "BYTES", [1], b"\x02\0\0\0hi"), ("x", tensors.DATATYPES[dtype], [2, 2], sent.tobytes())
    )
    request = codec.decode(body, length)
    received = tensors.array(request.message.inputs[1], request.binary["x"])
    assert received.dtype == dtype
    answer = codec.encode(asking(binary_data_output=True), {"x": received}, model_name="m", model_version="1")
    described = json.loads(answer.body[: answer.json_length])["outputs"][0]
    assert described["parameters"] == {"binary_data_size": sent.nbytes}
    assert answer.body[answer.json_length :] == sent.tobytes()


def test_strings_survive_in_binary():
    """Each is its length in bytes, and its UTF-8."""
    sent = b"\x05\0\0\0K\xc3\xb6ln\0\0\0\0"
    body, length = in_binary(("x", "BYTES", [2, 1], sent))
    received = codec.decode(body, length).arrays()["x"]
    assert received.tolist() == [["Köln"], [""]]
    assert tensors.to_binary(received) == sent


def test_strings_that_are_not_utf8_are_refused():
    """A model's categories are texts."""
    body, length = in_binary(("x", "BYTES", [1, 1], b"\x01\0\0\0\xff"))
    with pytest.raises(UsageError, match="not UTF-8"):
        codec.decode(body, length).arrays()


def test_bfloat16_is_widened():
    """It is the upper half of a float32."""
    body, length = in_binary(("x", "BF16", [2], np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].tobytes()))
    assert codec.decode(body, length).arrays()["x"].tolist() == [1.5, -2.0]


def test_more_elements_than_items_are_allowed_are_not_built():
    """Neither those that the shape declares nor those that come beyond it."""
    many = bytes(4) * 4_000_000
    for shape, message in (([4_000_000], "at most 256"), ([2], "more elements than")):
        request = codec.decode(*in_binary(("x", "BYTES", shape, many)))
        tracemalloc.start()
        try:
            with pytest.raises(UsageError, match=message):
                request.elements()
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 100_000


def test_elements_of_bytes_come_in_json_and_in_binary():
    """A text, or a length and so many bytes."""
    binary = b"".join(len(it).to_bytes(4, "little") + it for it in (b"", "ä".encode(), b"\xff\x00"))
    assert codec.decode(*in_binary(("x", "BYTES", [3], binary))).elements() == [b"", "ä".encode(), b"\xff\x00"]
    request = codec.decode(a_request(datatype="BYTES", shape=[1, 2], data=["a", "ä"]), None)
    assert request.elements() == [b"a", "ä".encode()]
    assert codec.decode(a_request(), None).elements() is None


@pytest.mark.parametrize(
    "tensors",
    [
        [("x", "FP32", [2], b"\0" * 7)],
        [("x", "FP32", [3], b"\0" * 8)],
        [("x", "BOOL", [2], b"\0\2")],
        [("x", "BYTES", [1], b"\1\0\0")],
        [("x", "BYTES", [1], b"\2\0\0\0a")],
        [("x", "BYTES", [2], b"\1\0\0\0a")],
        [("x", "BYTES", [1], b"\xff\xff\xff\xff")],
        [("x", "BYTES", [1], b"\1\0\0\0a"), ("y", "FP32", [0], b"")],
    ],
)
def test_bytes_that_are_not_what_they_say_are_refused(tensors):
    """Too few, too many, or ending in the middle."""
    request = codec.decode(*in_binary(*tensors))
    with pytest.raises(UsageError) as caught:
        request.elements() or request.arrays()
    assert caught.value.code == "input-invalid"


@pytest.mark.parametrize("size", [-1, 5, 1.5, True, "4", None])
def test_the_bytes_behind_the_json_belong_to_the_inputs(size):
    """None missing and none left over."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(UsageError):
        codec.decode(head + b"\0" * 4, len(head))


@pytest.mark.parametrize("length", [0, 10, 10**9])
def test_a_wrong_length_of_the_json_is_refused(length):
    """Cut short, or longer than the body."""
    body, _ = in_binary(("x", "FP32", [1], b"\0" * 4))
    with pytest.raises(UsageError):
        codec.decode(body, length)


def test_an_output_is_had_as_its_highest_classes():
    """Value, index and label, the highest first; the same in binary."""
    wanted = {"name": "y", "parameters": {"classification": 2}}
    outputs = {"y": np.array([[0.1, 0.7, 0.2], [3, 1, 2]], np.float32)}
    (described,) = json.loads(encoded(asking(wanted), outputs, labels=("a", "b", "c")))["outputs"]
    assert described == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["0.700000:1:b", "0.200000:2:c", "3.000000:0:a", "2.000000:2:c"],
    }
    answer = codec.encode(asking(wanted, binary_data_output=True), outputs, model_name="m", model_version="1")
    assert answer.body[answer.json_length :].startswith(b"\x0a\0\0\x000.700000:1")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        (np.array([0, 7, 255], np.uint8), "255.000000:2"),
        (np.array([-128, 0, 7], np.int8), "7.000000:2"),
        (np.array([False, True]), "1.000000:1"),
        (np.array([np.nan, 1], np.float32), "1.000000:1"),
    ],
    ids=lambda it: str(getattr(it, "dtype", "")),
)
def test_the_highest_class_is_the_highest_in_each_type(scores, best):
    """Quantized models give their scores as integers of 8 bits."""
    wanted = {"name": "y", "parameters": {"classification": 1}}
    assert json.loads(encoded(asking(wanted), {"y": scores}))["outputs"][0]["data"] == [best]


def test_texts_have_no_highest_classes():
    """The request is at fault, not the server."""
    wanted = {"name": "y", "parameters": {"classification": 1}}
    with pytest.raises(UsageError, match="highest classes"):
        encoded(asking(wanted), {"y": np.array(["a", "b"], object)})


def test_a_deadline_is_in_microseconds():
    """As tritonclient sends it; none is none."""
    assert asking(timeout=1500).timeout_s == 0.0015
    assert asking(timeout=0).timeout_s is None
    assert asking().timeout_s is None
    with pytest.raises(UsageError, match="timeout"):
        asking(timeout=10**400)


def test_only_the_outputs_asked_for_come_back():
    """In the order in which they were asked; one that isn't there is an error."""
    outputs = {name: np.zeros(1, np.float32) for name in "abc"}
    request = asking({"name": "c"}, {"name": "a"})
    answer = json.loads(encoded(request, outputs))
    assert [output["name"] for output in answer["outputs"]] == ["c", "a"]
    request = asking({"name": "z"})
    with pytest.raises(UsageError):
        codec.encode(request, outputs, model_name="m", model_version="1")


def test_what_json_lacks_becomes_null():
    """NaN and infinity are null: the answer stays JSON."""
    outputs = {"y": np.array([np.nan, np.inf, 1.0], np.float32)}
    answer = encoded(asking(), outputs)
    assert json.loads(answer)["outputs"][0]["data"] == [None, None, 1.0]


def test_numbers_have_the_digits_that_their_type_needs():
    """A client that reads them as that type has the very same; in whichever order they lie in memory."""
    values = np.random.default_rng(7).standard_normal((30, 40)).astype(np.float32).T
    said = json.loads(encoded(asking(), {"y": values}))["outputs"][0]["data"]
    assert np.array_equal(np.array(said, np.float32).reshape(values.shape), values)
    assert b'"data":[0.1,-2.5e-8]' in encoded(asking(), {"y": np.array([0.1, -2.5e-8], np.float32)})

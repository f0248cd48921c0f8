"""What tritonclient's synchronous HTTP client does, by its defaults where it has them."""

from importlib.metadata import version

import numpy as np
from tritonclient import http
from tritonclient.utils import np_to_triton_dtype

from clients.calls import Calls, refused

calls = Calls(f"tritonclient {version('tritonclient')}, sync")
ROW = np.array([[1, 2, 3, 4]], np.float32)
ANSWER = [[3, 5, 7, 9]]


def client(url, **options):
    """A client, as a user makes it."""
    return http.InferenceServerClient(url.removeprefix("http://"), **options)


def given(values=ROW, name="x", **options):
    """An input with data."""
    tensor = http.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values, **options)
    return tensor


@calls.call("server live, ready, metadata")
def server(url):
    assert client(url).is_server_live()
    assert client(url).is_server_ready()
    metadata = client(url).get_server_metadata()
    assert metadata["name"] == "edgeml-agent"
    assert "binary_tensor_data" in metadata["extensions"]


@calls.call("model ready, metadata, config, with and without its version")
def model(url):
    for model_version in ("", "1.0"):
        assert client(url).is_model_ready("tiny", model_version)
        assert client(url).get_model_metadata("tiny", model_version)["inputs"][0]["datatype"] == "FP32"
        assert client(url).get_model_config("tiny", model_version)["input"][0]["data_type"] == "TYPE_FP32"
    assert not client(url).is_model_ready("other")


@calls.call("infer by its defaults (binary in and out)")
def infer_defaults(url):
    result = client(url).infer("tiny", [given()])
    assert result.as_numpy("y").tolist() == ANSWER
    assert result.get_response()["model_version"] == "1.0"


@calls.call("infer with JSON tensors")
def infer_json(url):
    wanted = http.InferRequestedOutput("y", binary_data=False)
    result = client(url).infer("tiny", [given(binary_data=False)], outputs=[wanted], request_id="7")
    assert result.as_numpy("y").tolist() == ANSWER
    assert result.get_response()["id"] == "7"


@calls.call("infer with outputs chosen, in binary")
def infer_chosen(url):
    result = client(url).infer("tiny", [given()], outputs=[http.InferRequestedOutput("y", binary_data=True)])
    assert result.as_numpy("y").tolist() == ANSWER


@calls.call("infer with BYTES (texts, tokenized by the server)")
def infer_bytes(url):
    texts = np.array(["good film", "bad bad"], dtype=object)
    for in_binary in (True, False):
        tensor = http.InferInput("text", [2], "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=in_binary)
        result = client(url).infer("mood", [tensor])
        (output,) = result.get_response()["outputs"]
        assert result.as_numpy(output["name"]).argmax(1).tolist() == [1, 0]


@calls.call("infer with classification (BYTES out)")
def infer_classes(url):
    tensor = http.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array(["good film"], dtype=object))
    name = client(url).get_model_metadata("mood")["outputs"][0]["name"]
    for in_binary in (True, False):
        wanted = http.InferRequestedOutput(name, binary_data=in_binary, class_count=2)
        best = client(url).infer("mood", [tensor], outputs=[wanted]).as_numpy(name)[0]
        texts = [it.decode() if isinstance(it, bytes) else it for it in best]
        assert [text.split(":")[2] for text in texts] == ["positive", "negative"]


@calls.call("infer with gzip and deflate, both ways, 100,000 rows")
def infer_packed(url):
    rows = np.tile(ROW, (100_000, 1))
    for packing in ("gzip", "deflate"):
        result = client(url, network_timeout=60).infer(
            "tiny",
            [given(rows)],
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
        assert np.array_equal(result.as_numpy("y"), rows * 2 + 1)


@calls.call("async_infer, eight at a time")
def infer_async(url):
    asking = client(url, concurrency=8)
    running = [asking.async_infer("tiny", [given(ROW + number)]) for number in range(32)]
    for number, request in enumerate(running):
        assert request.get_result().as_numpy("y").tolist() == ((ROW + number) * 2 + 1).tolist()


@calls.call("infer with a timeout in microseconds, priority and parameters")
def infer_parameters(url):
    result = client(url).infer("tiny", [given()], timeout=5_000_000, priority=1, parameters={"why": "test"})
    assert result.as_numpy("y").tolist() == ANSWER


@calls.call("repository index, unload, load")
def repository(url):
    asking = client(url)
    assert {it["name"]: it["state"] for it in asking.get_model_repository_index()} == {"mood": "READY", "tiny": "READY"}
    asking.unload_model("tiny")
    assert not asking.is_model_ready("tiny")
    states = {it["name"]: it["state"] for it in asking.get_model_repository_index()}
    assert states == {"mood": "READY", "tiny": "UNAVAILABLE"}
    asking.load_model("tiny")
    assert asking.is_model_ready("tiny")
    assert asking.infer("tiny", [given()]).as_numpy("y").tolist() == ANSWER


@calls.call("statistics of one model and of all")
def statistics(url):
    before = client(url).get_inference_statistics("tiny")["model_stats"][0]
    client(url).infer("tiny", [given()])
    after = client(url).get_inference_statistics("tiny", "1.0")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert {it["name"] for it in client(url).get_inference_statistics()["model_stats"]} == {"mood", "tiny"}


@calls.call("wrong inputs: an error that says why")
def wrong(url):
    cases = [
        ("tiny", given(ROW.astype(np.int64)), "not float32"),
        ("tiny", given(ROW[:, :3].copy()), "shape"),
        ("tiny", given(name="z"), "'z'"),
        ("other", given(), "other"),
    ]
    for name, tensor, why in cases:
        with refused(why):
            client(url).infer(name, [tensor])


if __name__ == "__main__":
    calls.run()

"""What kserve's REST client does, with protocol v2."""

from importlib.metadata import version

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from clients.calls import Calls, refused

calls = Calls(f"kserve {version('kserve')}")
ROW = np.array([[1, 2, 3, 4]], np.float32)


def client():
    """A client, as a user makes it."""
    return InferenceRESTClient(RESTConfig(protocol="v2", retries=1))


def asked(*, in_binary, values=ROW):
    """A request for the model."""
    tensor = InferInput(name="x", shape=list(values.shape), datatype="FP32")
    tensor.set_data_from_numpy(values, binary_data=in_binary)
    return InferRequest(model_name="tiny", infer_inputs=[tensor])


@calls.call("server live and ready")
async def health(url):
    assert await client().is_server_live(url)
    assert await client().is_server_ready(url)


@calls.call("model ready")
async def model(url):
    assert await client().is_model_ready(url, "tiny")
    assert not await client().is_model_ready(url, "other")


@calls.call("infer with JSON and with binary tensors")
async def infer(url):
    for in_binary in (False, True):
        answer = await client().infer(url, asked(in_binary=in_binary), model_name="tiny")
        assert answer.model_name == "tiny"
        (output,) = answer.outputs
        assert output.as_numpy().tolist() == [[3, 5, 7, 9]]


@calls.call("infer with a plain dictionary")
async def infer_dictionary(url):
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answer = await client().infer(url, body, model_name="tiny")
    assert answer.outputs[0].as_numpy().tolist() == [[3, 5, 7, 9]]


@calls.call("wrong inputs: an error that says why")
async def wrong(url):
    with refused("shape"):
        await client().infer(url, asked(in_binary=False, values=ROW[:, :3].copy()), model_name="tiny")


if __name__ == "__main__":
    calls.run()

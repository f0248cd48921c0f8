"""What tritonclient's asyncio HTTP client does."""

import asyncio
from importlib.metadata import version

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http import aio as http

from clients.calls import Calls, refused

calls = Calls(f"tritonclient {version('tritonclient')}, aio")
ROW = np.array([[1, 2, 3, 4]], np.float32)


def client(url):
    """A client, as a user makes it."""
    return http.InferenceServerClient(url.removeprefix("http://"))


def given(values=ROW, **options):
    """An input with data."""
    tensor = InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, **options)
    return tensor


@calls.call("health and metadata")
async def health(url):
    async with client(url) as asking:
        assert await asking.is_server_live()
        assert await asking.is_server_ready()
        assert await asking.is_model_ready("tiny")
        assert (await asking.get_model_metadata("tiny"))["name"] == "tiny"
        assert (await asking.get_model_config("tiny"))["name"] == "tiny"


@calls.call("infer by its defaults, with JSON, and packed")
async def infer(url):
    async with client(url) as asking:
        for options in ({}, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}):
            result = await asking.infer("tiny", [given()], **options)
            assert result.as_numpy("y").tolist() == [[3, 5, 7, 9]]
        wanted = InferRequestedOutput("y", binary_data=False)
        result = await asking.infer("tiny", [given(binary_data=False)], outputs=[wanted])
        assert result.as_numpy("y").tolist() == [[3, 5, 7, 9]]


@calls.call("32 at a time")
async def infer_many(url):
    async with client(url) as asking:
        results = await asyncio.gather(*(asking.infer("tiny", [given(ROW + number)]) for number in range(32)))
    for number, result in enumerate(results):
        assert result.as_numpy("y").tolist() == ((ROW + number) * 2 + 1).tolist()


@calls.call("repository and statistics")
async def repository(url):
    async with client(url) as asking:
        assert {it["name"] for it in await asking.get_model_repository_index()} == {"mood", "tiny"}
        await asking.unload_model("tiny")
        assert not await asking.is_model_ready("tiny")
        await asking.load_model("tiny")
        assert await asking.is_model_ready("tiny")
        assert (await asking.get_inference_statistics("tiny"))["model_stats"][0]["name"] == "tiny"


@calls.call("wrong inputs: an error that says why")
async def wrong(url):
    async with client(url) as asking:
        with refused("shape"):
            await asking.infer("tiny", [given(ROW[:, :3].copy())])


if __name__ == "__main__":
    calls.run()

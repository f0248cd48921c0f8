"""Requests over MQTT as the models get them."""

import asyncio
import json
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from edgeml_agent.link.inference_requests import InferenceRequest
from edgeml_agent.mqtt_api.inference import CLIENT_IN_FLIGHT_MAX, IN_FLIGHT_MAX, MqttInference
from edgeml_core.messages import Topics
from edgeml_runtime.tasks import TokenDelta


class Line:
    """The device's topics, and its requests as messages; `published` has the answers that the broker takes."""

    topics = Topics("farm")
    device = "board-1"

    def __init__(self, answer_max_bytes=10_000):
        self.published = []
        self.requests = asyncio.Queue()
        self._answer_max_bytes = answer_max_bytes

    async def next(self):
        """See `InferenceRequests`."""
        return await self.requests.get()

    async def publish(self, topic, payload, *, correlation):
        """See `InferenceRequests`."""
        if len(payload) > self._answer_max_bytes:
            return False
        self.published.append((topic, payload, correlation))
        return True


def request(payload=b"{}", client="barn"):
    """A request that has just arrived."""
    return InferenceRequest(model="m", client=client, payload=payload, arrived_s=time.monotonic())


@pytest.mark.parametrize(
    ("payload", "is_one"),
    [
        (b'{"text": "a"}', True),
        (b'{"text": "items"}', True),
        (b"text", True),
        (b' [{"text": "a"}]', False),
        (b'{"items": [{"text": "a"}], "id": 1}', False),
        (b'{"\\u0069tems": [{"text": "a"}], "id": 1}', False),
    ],
)
def test_a_request_of_several_items_has_no_size(payload, is_one):
    """So none runs on the event loop: each item takes a run's time."""
    line, infos = Line(), []

    class Models:
        """Models that answer nothing."""

        async def run(self, _name, _call, info):
            """See `edgeml_agent.serve.models`."""
            infos.append(info.size_bytes)
            return b"{}"

    asyncio.run(MqttInference(line, Models())._answer(request(payload)))
    assert [payload for _, payload, _ in line.published] == [b"{}"]
    assert infos == [len(payload) if is_one else None]


def test_requests_of_one_client_leave_places_for_others():
    """Those of a language model take minutes: a sensor must not wait for them. All places are there again after."""
    line = Line()

    async def main():
        go_on = asyncio.Event()

        class Models:
            """Models that answer when they may."""

            async def run(self, _name, _call, _info):
                """See `edgeml_agent.serve.models`."""
                await go_on.wait()
                return b"{}"

            def find(self, _name):
                """See `edgeml_agent.serve.models`."""
                return SimpleNamespace(queue_depth=1, service_s=1.0)

        answering = asyncio.create_task(MqttInference(line, Models()).run())
        for _ in range(2):
            line.published.clear()
            go_on.clear()
            for client in ["chat"] * IN_FLIGHT_MAX + ["sensor"] * 2:
                line.requests.put_nowait(request(json.dumps({"id": client}).encode(), client))
            await asyncio.sleep(0.05)
            refused = [json.loads(payload) for _, payload, _ in line.published]
            go_on.set()
            await asyncio.sleep(0.05)
            assert Counter(it["id"] for it in refused) == {"chat": IN_FLIGHT_MAX - CLIENT_IN_FLIGHT_MAX}
            assert {it["error"]["code"] for it in refused} == {"overloaded"}
            assert len(line.published) == IN_FLIGHT_MAX + 2
        answering.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_that_the_broker_does_not_take_is_an_error(is_stream):
    """Brokers have limits of their own, below that of the device; its client must not wait until its deadline."""
    line = Line(answer_max_bytes=300)

    class Models:
        """Models whose answers are long."""

        async def run(self, _name, _call, _info):
            """See `edgeml_agent.serve.models`."""
            return bytes(301)

        async def stream(self, _name, _generate, _info):
            """See `edgeml_agent.serve.models`."""
            yield "1.0", TokenDelta(text="a" * 301, prompt_tokens=1, tokens=1, finish="stop")

    payload = json.dumps({"prompt": "a", "id": 7, "stream": is_stream}).encode()
    asyncio.run(MqttInference(line, Models())._answer(request(payload)))
    ((_, answer, _),) = line.published
    assert json.loads(answer)["id"] == 7
    assert json.loads(answer)["error"]["code"] == "answer-too-large"

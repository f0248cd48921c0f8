"""Requests over MQTT as the models get them."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from edgeml_agent.link.inference_requests import InferenceRequest
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_core.messages import Topics


@pytest.mark.parametrize(
    ("payload", "is_one"),
    [(b'{"text": "a"}', True), (b' [{"text": "a"}]', False), (b'{"items": [{"text": "a"}], "id": 1}', False)],
)
def test_a_request_of_several_items_has_no_size(payload, is_one):
    """So none runs on the event loop: each item takes a run's time."""
    sizes, published = [], []

    class Models:
        """Models that answer nothing."""

        async def run(self, _name, _call, info):
            """See `edgeml_agent.serve.models`."""
            sizes.append(info.size_bytes)
            return b"{}"

    async def publish(topic, payload, *, correlation):
        published.append((topic, payload, correlation))

    line = SimpleNamespace(topics=Topics("farm"), device="board-1", publish=publish)
    asked = InferenceRequest(
        model="m",
        client="barn",
        payload=payload,
        arrived_s=time.monotonic(),
        expires_s=None,
        reply_to=None,
        correlation=None,
    )
    asyncio.run(MqttInference(line, Models())._answer(asked))
    assert [payload for _, payload, _ in published] == [b"{}"]
    assert sizes == [len(payload) if is_one else None]

"""Generated texts over MQTT in pieces, through a real Mosquitto: whole, in order, cancelled, expired, refused."""

import asyncio
import contextlib
from functools import partial

import pytest
from aiomqtt import ProtocolVersion
from tests.integration.test_mqtt_door import CLIENT, DEVICE, OWN, TOPICS, USUAL, asking, body, broker, door  # noqa: F401
from tests.integration.test_serving import unpacked
from tests.support import task_models

from edgeml_agent.mqtt_api.inference import CLIENT_IN_FLIGHT_MAX
from edgeml_agent.serve.calls import Predict
from support.waiting import until_async

WRITER = TOPICS.infer(DEVICE, "writer", CLIENT)
PROMPT = {"prompt": "water boils", "max_new_tokens": 60}
LONG = {"prompt": "water boils", "max_new_tokens": 500, "stream": True}
#: Requests of a client that leaves: together they take far longer than its deadline of a second.
LEFT = 6


@contextlib.asynccontextmanager
async def writing(url, folder, *, slowly=False):
    """The open API of a device with a model that writes; its models."""
    (folder / "writer").mkdir()
    make = partial(task_models.bundle, task="text-generation", name="writer", slowly=slowly)
    made = unpacked(folder / "writer", make)
    async with door(url, folder) as models:
        await models.activate("writer", *made)
        yield models


def ended(messages):
    """Whether the last message has come."""
    return bool(messages) and ("finish" in messages[-1] or "error" in messages[-1])


@pytest.mark.parametrize("version", [ProtocolVersion.V5, ProtocolVersion.V311])
def test_a_stream_has_the_text_of_the_whole_answer(broker, tmp_path, version):  # noqa: F811
    """In numbered messages, each with the id or the correlation data; the last one counts."""

    async def main():
        async with asking(broker.url, version) as asker, writing(broker.url, tmp_path) as models:
            if version is ProtocolVersion.V5:
                await asker.ask(WRITER, PROMPT | {"stream": True}, ResponseTopic=OWN, CorrelationData=b"7")
            else:
                await asker.ask(WRITER, PROMPT | {"stream": True, "id": 7, "reply_to": OWN})
            await asker.until(lambda: ended(asker.said(OWN)))
            whole = Predict(parse=lambda model: model.parse(PROMPT), write=lambda _, answers: answers[0])
            known = [getattr(it.properties, "CorrelationData", b"") for it in asker.heard if str(it.topic) == OWN]
            return asker.said(OWN), known, await models.run("writer", whole)

    said, known, expected = asyncio.run(main())
    assert "".join(it["text"] for it in said) == expected["text"]
    assert [it["seq"] for it in said] == list(range(len(said)))
    last = {key: said[-1][key] for key in ("finish", "tokens", "prompt_tokens", "model", "version")}
    expected_last = {key: expected[key] for key in ("finish", "tokens", "prompt_tokens")}
    assert last == expected_last | {"model": "writer", "version": "1.0"}
    assert not any("finish" in it for it in said[:-1])
    assert {*known} == {b"7"} if version is ProtocolVersion.V5 else {it["id"] for it in said} == {7}


def test_a_cancelled_stream_ends_at_the_next_token(broker, tmp_path):  # noqa: F811
    """By its own client, with its id; not by another one with the same id. The device then serves the next request."""
    other = TOPICS.infer(DEVICE, "writer", "other")

    async def main():
        async with asking(broker.url) as asker, writing(broker.url, tmp_path, slowly=True) as models:
            await asker.ask(WRITER, LONG | {"id": 1}, ResponseTopic=OWN)
            await asker.until(lambda: len(asker.said(OWN)) >= 2)
            await asker.ask(other, {"cancel": True, "id": 1})
            await asker.ask(WRITER, {"cancel": True, "id": 2})
            before = len(asker.said(OWN))
            await asker.until(lambda: len(asker.said(OWN)) >= before + 2)
            assert not ended(asker.said(OWN))
            await asker.ask(WRITER, {"cancel": True, "id": 1})
            await asker.until(lambda: ended(asker.said(OWN)))
            await until_async(lambda: not models.find("writer").queue_depth, "the device has stopped")
            return asker.said(OWN)[-1], models.counts.tokens("writer"), models.counts.codes("writer")

    last, written, codes = asyncio.run(main())
    assert last["error"]["code"] == "client-left"
    # The device may have written some more while the loop of this test was busy, but never the whole text.
    assert last["tokens"] <= written < LONG["max_new_tokens"] / 2
    assert codes == {"cancelled": 1}


def test_a_client_that_has_left_costs_nothing_after_its_deadline(broker, tmp_path):  # noqa: F811
    """The broker doesn't tell the device: the deadline of the request ends the work."""

    async def main():
        async with writing(broker.url, tmp_path, slowly=True) as models:
            async with asking(broker.url) as asker:
                for _ in range(LEFT):
                    await asker.ask(WRITER, LONG, ResponseTopic=OWN, MessageExpiryInterval=1)
                await asker.until(lambda: asker.said(OWN))
            await until_async(lambda: sum(models.counts.codes("writer").values()) == LEFT, "the deadline")
            await until_async(lambda: not models.find("writer").queue_depth, "the device has stopped")
            return models.counts.codes("writer"), models.counts.tokens("writer")

    codes, written = asyncio.run(main())
    assert codes == {"deadline-exceeded": LEFT}
    assert written < LEFT * LONG["max_new_tokens"]


def test_what_can_not_be_streamed_is_refused(broker, tmp_path):  # noqa: F811
    """In one message, as the first and last one of its stream."""
    bad = {
        "input-invalid": [(WRITER, {"items": [PROMPT, PROMPT]}), (TOPICS.infer(DEVICE, "mood", CLIENT), {"text": "x"}),
                          (WRITER, {"prompt": 1}), (TOPICS.infer(DEVICE, "tiny", CLIENT), body(1))],
        "prompt-too-long": [(WRITER, {"prompt": "water " * 600})],
        "model-unknown": [(TOPICS.infer(DEVICE, "absent", CLIENT), PROMPT)],
    }  # fmt: skip
    asked = [(code, *it) for code, some in bad.items() for it in some]

    async def main():
        async with asking(broker.url) as asker, writing(broker.url, tmp_path):
            for number, (_, topic, request) in enumerate(asked):
                await asker.ask(topic, request | {"stream": True, "id": number, "reply_to": OWN})
            await asker.until(lambda: len(asker.said(OWN)) == len(asked))
            return {it["id"]: it for it in asker.said(OWN)}

    said = asyncio.run(main())
    assert [said[number]["error"]["code"] for number in range(len(asked))] == [code for code, *_ in asked]
    assert {(it["seq"], it["text"]) for it in said.values()} == {(0, "")}


def test_streams_share_the_places_of_other_requests(broker, tmp_path):  # noqa: F811
    """One more than may be under way is refused; cancelled, queued and whole ones alike, they leave their places."""

    async def main():
        async with asking(broker.url) as asker, writing(broker.url, tmp_path, slowly=True) as models:
            for number in range(CLIENT_IN_FLIGHT_MAX + 1):
                await asker.ask(WRITER, LONG | {"id": number, "stream": number % 2 == 0})
            usual = TOPICS.answer(DEVICE, "writer")
            await asker.until(lambda: any(it["id"] == CLIENT_IN_FLIGHT_MAX for it in asker.said(usual)))
            (refused,) = [it for it in asker.said(usual) if it["id"] == CLIENT_IN_FLIGHT_MAX]
            for number in range(CLIENT_IN_FLIGHT_MAX):
                await asker.ask(WRITER, {"cancel": True, "id": number})
            await asker.until(lambda: sum("error" in it for it in asker.said(usual)) == CLIENT_IN_FLIGHT_MAX + 1)
            await until_async(lambda: not models.find("writer").queue_depth, "the device has stopped")
            await asker.ask(TOPICS.infer(DEVICE, "tiny", CLIENT), body(4))
            await asker.until(lambda: asker.said(USUAL))
            return refused, asker.said(usual)

    refused, said = asyncio.run(main())
    assert refused["error"]["code"] == "overloaded"
    assert refused["error"]["retry_after_s"] >= 1
    codes = [it["error"]["code"] for it in said if "error" in it]
    assert sorted(codes) == ["client-left"] * CLIENT_IN_FLIGHT_MAX + ["overloaded"]

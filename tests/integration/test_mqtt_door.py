"""Models asked over MQTT: the real door and link on real brokers, by MQTT 5 and 3.1.1; real models behind them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import re
import threading
from functools import partial
from pathlib import Path

import jinja2.sandbox
import numpy as np
import paho.mqtt.client as paho
import pytest
from aiomqtt import Client, Message, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from PIL import Image as Pictures
from tests.integration.test_serving import unpacked
from tests.support import task_models, tiny_models

from edgeml_agent.link.inference_requests import REQUEST_MAX_BYTES
from edgeml_agent.link.link import MqttLink
from edgeml_agent.mqtt_api.home_assistant import Sensors
from edgeml_agent.mqtt_api.inference import CLIENT_IN_FLIGHT_MAX, MqttInference
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import QUEUE_MAX
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import broker as broker_urls
from edgeml_core.messages import Topics
from support import brokers, paho_clients
from support.delivery_site import site, until
from support.sounds import wav

TIMEOUT_S = 30.0
DEVICE, CLIENT = "board-1", "camera"
TOPICS = Topics("farm")
ASK = TOPICS.infer(DEVICE, "tiny", CLIENT)
USUAL = TOPICS.answer(DEVICE, "tiny")
OWN = TOPICS.client(CLIENT, DEVICE)
REQUESTS, IN_FLIGHT, FLOOD = 1000, 16, 400
PREFIX = "homeassistant"


class Asker:
    """A client that hears all that is said, and keeps it in order."""

    def __init__(self, client: Client) -> None:
        self.heard: list[Message] = []
        self._client = client
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Hear."""
        async for message in self._client.messages:
            if message.payload and "/infer/" not in str(message.topic):
                self.heard.append(message)
                self._news.set()

    async def ask(self, topic: str, payload: object, *, retain: bool = False, **properties: object) -> None:
        """Publish; what is no bytes as JSON, with these properties of MQTT 5."""
        given = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(given, name, value)
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        await self._client.publish(topic, data, retain=retain, properties=given if properties else None)

    def said(self, topic: str) -> list[dict]:
        """What was said on a topic."""
        return [json.loads(it.payload) for it in self.heard if str(it.topic) == topic]

    async def until(self, holds) -> None:
        """Wait until something holds of what was heard."""
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                self._news.clear()
                await self._news.wait()


def link_on(url: str) -> MqttLink:
    """The link of a device."""
    sessions = itertools.count(1)
    settings = BrokerSettings(url=broker_urls.parse(url), ca=None, cert=None, key=None)
    return MqttLink(settings, DeviceSettings(id=DEVICE, fleet="farm", labels={}), lambda: next(sessions))


@contextlib.asynccontextmanager
async def asking(url: str, version: ProtocolVersion = ProtocolVersion.V5):
    """A client on the broker that hears the fleet, and what Home Assistant would."""
    address = broker_urls.parse(url)
    async with Client(address.host, address.port, protocol=version) as client, asyncio.TaskGroup() as tasks:
        asker = Asker(client)
        await client.subscribe([(f"{TOPICS.root}/#", 0), (f"{PREFIX}/#", 0)])
        listening = tasks.create_task(asker.listen())
        yield asker
        listening.cancel()


@contextlib.asynccontextmanager
async def door(url: str, folder: Path, *, sensors: bool = False):
    """The open door of a device that serves a model of tensors and one of texts; its models."""
    models, link = Models(), link_on(url)
    await models.activate("tiny", *unpacked(folder / "tiny"))
    await models.activate("mood", *unpacked(folder / "mood", tiny_models.tiny_text_bundle))
    line = link.open_requests()
    running = [asyncio.create_task(link.run()), asyncio.create_task(MqttInference(line, models).run())]
    if sensors:
        running.append(asyncio.create_task(Sensors(line, models, PREFIX).run()))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not link.is_online:  # noqa: ASYNC110 - the link's task makes it so
                await asyncio.sleep(0.01)
        yield models
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await models.close()


@pytest.fixture
def broker(tmp_path: Path):
    """A real Mosquitto."""
    for name in ("tiny", "mood"):
        (tmp_path / name).mkdir()
    with brokers.mosquitto(tmp_path / "broker") as running:
        yield running


def body(number: float, **more: object) -> dict[str, object]:
    """A request of which the answer is 2 * number + 1."""
    return {"inputs": {"x": [[number, 0.0, 0.0, 0.0]]}, **more}


def answered(said: dict) -> float:
    """The number in an answer."""
    return said["outputs"][0]["outputs"]["y"][0][0]


def test_a_thousand_requests_with_sixteen_in_flight_are_all_answered(broker, tmp_path):
    """By MQTT 5: response topic and correlation data; each asker gets the answer to its own question."""

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path) as models:
            room = asyncio.Semaphore(IN_FLIGHT)

            async def one(number: int) -> None:
                async with room:
                    known = number.to_bytes(4, "big")
                    await asker.ask(ASK, body(number), ResponseTopic=OWN, CorrelationData=known)
                    await asker.until(lambda: known in answers(asker))

            await asyncio.gather(*(one(number) for number in range(REQUESTS)))
            return answers(asker), models.counts.tally("tiny")[0].count

    def answers(asker):
        return {it.properties.CorrelationData: it for it in asker.heard if str(it.topic) == OWN}

    found, count = asyncio.run(main())
    numbers = {int.from_bytes(known, "big"): answered(json.loads(it.payload)) for known, it in found.items()}
    assert numbers == {number: 2.0 * number + 1 for number in range(REQUESTS)}
    assert count == REQUESTS


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_client_without_properties_writes_them_into_the_payload(broker, tmp_path, kind):
    """By MQTT 3.1.1: `reply_to` and `id`; a list of items beside them, too."""

    async def main(url):
        async with asking(url, ProtocolVersion.V311) as asker, door(url, tmp_path):
            for number in range(20):
                await asker.ask(ASK, body(number, id=f"n-{number}", reply_to=OWN, timeout_ms=30_000))
            items = [{"text": "good"}, {"text": "bad bad"}]
            await asker.ask(TOPICS.infer(DEVICE, "mood", CLIENT), {"items": items, "id": 7, "reply_to": OWN})
            await asker.until(lambda: len(asker.said(OWN)) == 21)
            return {it["id"]: it for it in asker.said(OWN)}

    with brokers.embedded() if kind == "amqtt" else contextlib.nullcontext(broker.url) as url:
        found = asyncio.run(main(url))
    assert [it["labels"][0]["label"] for it in found.pop(7)["outputs"]] == ["positive", "negative"]
    assert {known: answered(it) for known, it in found.items()} == {f"n-{i}": 2.0 * i + 1 for i in range(20)}


def test_bare_content_is_a_request_and_the_usual_topic_has_the_answer(broker, tmp_path):
    """As a sensor or a camera publishes it, with nothing around."""

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path):
            await asker.ask(TOPICS.infer(DEVICE, "mood", CLIENT), b"good good bad")
            await asker.until(lambda: asker.said(TOPICS.answer(DEVICE, "mood")))
            return asker.said(TOPICS.answer(DEVICE, "mood"))

    (said,) = asyncio.run(main())
    assert (said["model"], said["version"]) == ("mood", "1.0")
    assert said["outputs"][0]["labels"][0]["label"] == "positive"


def test_expired_requests_are_answered_so_and_never_run(broker, tmp_path):
    """Of the payload's `timeout_ms` and the message's expiry the earlier counts; those without go their way."""
    go_on = threading.Event()

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path) as models:
            blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(TIMEOUT_S)))
            for number in range(10):
                await asker.ask(ASK, body(number, id=number, timeout_ms=100), MessageExpiryInterval=60)
            await asker.ask(ASK, body(10, id=10, timeout_ms=60_000), MessageExpiryInterval=1)
            await asker.ask(ASK, body(11, id=11))
            await asker.until(lambda: len(asker.said(USUAL)) == 11)
            late = asker.said(USUAL)
            waiting = models.find("tiny").queue_depth
            go_on.set()
            await blocking
            await asker.until(lambda: len(asker.said(USUAL)) == 12)
            return late, waiting, asker.said(USUAL)[-1], models.find("tiny").worker.ran.count

    late, waiting, last, runs = asyncio.run(main())
    assert {it["id"]: it["error"]["code"] for it in late} == dict.fromkeys(range(11), "deadline-exceeded")
    assert waiting == 2  # what blocks, and the one that can wait
    assert (last["id"], answered(last)) == (11, 23.0)
    assert runs == 2


def test_who_asks_too_much_is_told_when_to_come_back(broker, tmp_path):
    """The door takes no more than leaves room for others in the model's queue; what it took is answered."""
    go_on = threading.Event()
    asked = 3 * CLIENT_IN_FLIGHT_MAX

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path) as models:
            blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(TIMEOUT_S)))
            for number in range(asked):
                await asker.ask(ASK, body(number, id=number), ResponseTopic=OWN)
            await asker.until(lambda: len(asker.said(OWN)) == asked - CLIENT_IN_FLIGHT_MAX)
            refused, room = asker.said(OWN), QUEUE_MAX - models.find("tiny").queue_depth
            go_on.set()
            await blocking
            await asker.until(lambda: len(asker.said(OWN)) == asked)
            return refused, room, asker.said(OWN)

    refused, room, said = asyncio.run(main())
    assert {it["error"]["code"] for it in refused} == {"overloaded"}
    assert all(it["error"]["retry_after_s"] >= 1 for it in refused)
    assert room == QUEUE_MAX - CLIENT_IN_FLIGHT_MAX - 1
    assert {it["id"]: answered(it) for it in said if "outputs" in it} == {
        i: 2.0 * i + 1 for i in range(CLIENT_IN_FLIGHT_MAX)
    }


FORBIDDEN = (
    TOPICS.state(DEVICE),
    TOPICS.report(DEVICE),
    TOPICS.reply(DEVICE),
    ASK,
    TOPICS.answer("board-2", "tiny"),
    TOPICS.client("other", DEVICE),
    TOPICS.answer(DEVICE, "tiny"),
    TOPICS.answer(DEVICE, "mood"),
    TOPICS.client("camera", "board-2"),
    TOPICS.client("camera", f"{DEVICE}/more"),
    TOPICS.trust("fleet", "metadata/timestamp.json"),
    TOPICS.want(DEVICE),
    Topics("other").client("camera", DEVICE),
    f"x{OWN}",
    f"client/camera/{DEVICE}",
    f"{TOPICS.root}/client/+/{DEVICE}",
    f"{TOPICS.root}/client/\x00/{DEVICE}",
    f"{TOPICS.root}/client/{'x' * 300}/{DEVICE}",
    "$SYS/broker",
    "",
)


def test_answers_go_to_clients_and_nowhere_else(broker, tmp_path):
    """Who names another topic is told so on the usual one; else it could let the device speak as somebody else."""

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path) as models:
            for number, topic in enumerate(FORBIDDEN):
                await asker.ask(ASK, body(1, id=number, reply_to=topic))
            await asker.ask(ASK, body(1, id=99), ResponseTopic=TOPICS.state(DEVICE), CorrelationData=b"me")
            await asker.until(lambda: len(asker.said(USUAL)) == len(FORBIDDEN) + 1)
            return asker.heard, models.counts.tally("tiny")[0].count

    heard, runs = asyncio.run(main())
    said = [json.loads(it.payload) for it in heard if str(it.topic) == USUAL]
    assert {it["error"]["code"] for it in said} == {"topic-refused"}
    assert {it.get("id") for it in said} == {*range(len(FORBIDDEN)), None}
    assert [it.properties.CorrelationData for it in heard if getattr(it.properties, "CorrelationData", None)] == [b"me"]
    assert {str(it.topic) for it in heard} == {USUAL, TOPICS.state(DEVICE)}
    assert all("online" in json.loads(it.payload) for it in heard if str(it.topic) != USUAL)
    assert runs == 0


BAD = {
    "input-invalid": [b"{", b"[[[", b'{"inputs": {"x": "no"}}', b'{"id": [1], "inputs": {}}', b"[" * 10_000,
                      b'{"timeout_ms": 0, "inputs": {}}', b'{"timeout_ms": 1e12, "inputs": {}}', b"[]", b"\xff\xfe"],
    "body-too-large": [b"x" * (REQUEST_MAX_BYTES + 1)],
}  # fmt: skip


def test_what_can_not_be_read_is_answered_and_costs_nothing(broker, tmp_path):
    """Malformed, too long, for a model that isn't there; what is retained, or for no name, isn't looked at."""

    async def main():
        async with asking(broker.url) as asker, door(broker.url, tmp_path):
            bad = [(code, payload) for code, payloads in BAD.items() for payload in payloads]
            for _, payload in bad:
                await asker.ask(ASK, payload)
                await asker.until(lambda: len(asker.said(USUAL)) == len(seen) + 1)
                seen.append(asker.said(USUAL)[-1]["error"]["code"])
            await asker.ask(TOPICS.infer(DEVICE, "Not a name", CLIENT), body(1))
            await asker.ask(TOPICS.infer(DEVICE, "absent", CLIENT), body(1, id="x", reply_to=OWN))
            await asker.ask(ASK, body(4, id="y", reply_to=OWN))
            await asker.until(lambda: len(asker.said(OWN)) == 2)
            return [code for code, _ in bad], asker.said(OWN)

    seen: list[str] = []
    expected, (unknown, last) = asyncio.run(main())
    assert seen == expected
    assert unknown["error"]["code"] == "model-unknown"
    assert answered(last) == 9.0


def test_a_retained_request_is_for_nobody(broker, tmp_path):
    """It would be answered at every connection anew."""

    async def main():
        async with asking(broker.url) as asker:
            await asker.ask(ASK, body(1, id="old"), retain=True)
            async with door(broker.url, tmp_path):
                await asker.ask(ASK, body(2, id="new"))
                await asker.until(lambda: asker.said(USUAL))
                return asker.said(USUAL)

    assert [it["id"] for it in asyncio.run(main())] == ["new"]


def test_home_assistant_finds_models_and_shows_answers(broker, tmp_path):
    """By its own template language; what serves no longer is gone there, what a broker forgot comes again."""

    async def main():
        topic = f"{PREFIX}/sensor/{DEVICE}/mood/config"
        async with asking(broker.url) as asker, door(broker.url, tmp_path, sensors=True) as models:
            await asker.ask(TOPICS.infer(DEVICE, "mood", CLIENT), b"good")
            await asker.ask(TOPICS.infer(DEVICE, "mood", CLIENT), b"[bad")
            await asker.ask(ASK, body(4))
            usual = [TOPICS.answer(DEVICE, "mood"), USUAL]
            await asker.until(lambda: len(asker.said(usual[0])) == 2 and asker.said(usual[1]))
            await asker.until(lambda: asker.said(topic) and asker.said(topic.replace("mood", "tiny")))
            configs = {name: asker.said(topic.replace("mood", name))[0] for name in ("mood", "tiny")}
            await models.deactivate("mood")
            state = asker.said(TOPICS.state(DEVICE))[-1]
            retained = await kept(lambda found: topic not in found and topic.replace("mood", "tiny") in found)
            return configs, asker.said(usual[0]), asker.said(usual[1])[0], state, retained

    async def kept(enough):
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                async with asking(broker.url) as asker:
                    await asyncio.sleep(0.2)
                    if enough(found := {str(it.topic) for it in asker.heard if it.retain}):
                        return found

    configs, said, number, state, retained = asyncio.run(main())
    failed, good = sorted(said, key=lambda it: "outputs" in it)
    mood = configs["mood"]
    assert mood["state_topic"] == TOPICS.answer(DEVICE, "mood")
    assert shown(mood["value_template"], good) == "positive"
    assert shown(mood["value_template"], failed, state="as before") == "as before"
    attributes = json.loads(shown(mood["json_attributes_template"], good))
    assert attributes["labels"] == good["outputs"][0]["labels"]
    assert json.loads(shown(mood["json_attributes_template"], failed)) == {}
    assert shown(configs["tiny"]["value_template"], number) == "9.0"
    assert mood["availability_topic"] == TOPICS.state(DEVICE)
    assert shown(mood["availability_template"], state) == "online"
    assert len({it["unique_id"] for it in configs.values()}) == 2
    assert f"{PREFIX}/sensor/{DEVICE}/tiny/config" in retained


def test_a_picture_is_looked_through_over_mqtt(broker, tmp_path):
    """Its bytes are the request; the answer has boxes in its pixels, and Home Assistant shows what they are of."""
    held = io.BytesIO()
    picture = Pictures.new("RGB", (120, 80))
    picture.paste((20, 200, 40), (60, 0, 120, 80))
    picture.save(held, "PNG")
    dark = {"image": base64.b64encode(held.getvalue()).decode(), "threshold": 0.999}

    async def main():
        topic = f"{PREFIX}/sensor/{DEVICE}/finder/config"
        async with asking(broker.url) as asker, door(broker.url, tmp_path, sensors=True) as models:
            finder = unpacked(tmp_path, partial(task_models.bundle, task="object-detection"))
            await models.activate("finder", *finder)
            for payload in (held.getvalue(), dark):
                await asker.ask(TOPICS.infer(DEVICE, "finder", CLIENT), payload)
            usual = TOPICS.answer(DEVICE, "finder")
            await asker.until(lambda: len(asker.said(usual)) == 2 and asker.said(topic))
            return asker.said(topic)[0], asker.said(usual)

    config, said = asyncio.run(main())
    nothing, found = sorted(said, key=lambda it: len(it["outputs"][0]["boxes"]))
    (box,) = found["outputs"][0]["boxes"]
    assert (box["label"], box["box"]) == ("green", {"xmin": 60, "ymin": 0, "xmax": 120, "ymax": 80})
    assert shown(config["value_template"], found) == "green"
    assert shown(config["value_template"], nothing) == "nothing"


def test_a_mask_is_filled_over_mqtt(broker, tmp_path):
    """Home Assistant shows the whole text."""

    async def main():
        topic = f"{PREFIX}/sensor/{DEVICE}/gaps/config"
        async with asking(broker.url) as asker, door(broker.url, tmp_path, sensors=True) as models:
            await models.activate("gaps", *unpacked(tmp_path, partial(task_models.bundle, task="fill-mask")))
            await asker.ask(TOPICS.infer(DEVICE, "gaps", CLIENT), {"text": "the new [MASK]", "top_k": 2})
            usual = TOPICS.answer(DEVICE, "gaps")
            await asker.until(lambda: asker.said(usual) and asker.said(topic))
            return asker.said(topic)[0], asker.said(usual)[0]

    config, said = asyncio.run(main())
    assert [it["token_str"] for it in said["outputs"][0]["fills"]] == ["filter", "pump"]
    assert shown(config["value_template"], said) == "the new filter"


def test_speech_is_recognized_over_mqtt(broker, tmp_path):
    """The bytes of a file are the request; Home Assistant shows the text."""

    async def main():
        topic = f"{PREFIX}/sensor/{DEVICE}/ears/config"
        async with asking(broker.url) as asker, door(broker.url, tmp_path, sensors=True) as models:
            make = partial(task_models.bundle, task="automatic-speech-recognition")
            await models.activate("ears", *unpacked(tmp_path, make))
            await asker.ask(TOPICS.infer(DEVICE, "ears", CLIENT), wav(np.full(1600, 0.9, np.float32)))
            usual = TOPICS.answer(DEVICE, "ears")
            await asker.until(lambda: asker.said(usual) and asker.said(topic))
            return asker.said(topic)[0], asker.said(usual)[0]

    config, said = asyncio.run(main())
    assert said["outputs"] == [{"text": "loud"}]
    assert shown(config["value_template"], said) == "loud"


def shown(template, message, state=""):
    """What Home Assistant makes of a message: the sandbox, and the names that it gives to templates."""
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment()
    return sandbox.from_string(template).render(value_json=message, this={"state": state})


def test_a_flood_costs_little_memory_and_stops_nothing(tmp_path, monkeypatch):
    """Requests as long as they may be, as fast as they can be sent: most are lost, the device goes on."""
    monkeypatch.setenv("EDGEML_SERVE_MQTT", "true")
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        agent = made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        made.observer.close()
        before_bytes = peak_bytes(agent.process.pid)
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", made.broker.port)
        client.loop_start()
        padded = json.dumps(body(1)).encode().ljust(REQUEST_MAX_BYTES)
        sent = [client.publish(made.observer.topics.infer(DEVICE, "tiny", CLIENT), padded) for _ in range(FLOOD)]
        sent[-1].wait_for_publish(TIMEOUT_S)
        paho_clients.leave(client)
        made.publish("2.0", scale=3.0, seed=1)
        made.deploy("2.0")
        until(lambda: made.answers(31.0), "version 2.0 answers")
        grown_bytes = peak_bytes(agent.process.pid) - before_bytes
    assert grown_bytes < FLOOD * REQUEST_MAX_BYTES / 4
    assert (tmp_path / "agent.log").read_text().count("\n") < FLOOD / 4


def peak_bytes(pid):
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def test_the_agent_opens_the_door_when_it_is_told_to(tmp_path, monkeypatch):
    """As programs: closed unless agent.toml says `[serve] mqtt = true`; Home Assistant hears of what is deployed."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        ask, answer = made.observer.topics.infer(DEVICE, "tiny", CLIENT), made.observer.topics.answer(DEVICE, "tiny")
        made.observer.publish(ask, json.dumps(body(10)).encode())
        made.programs[-1].stop()
        made.config.write_text(re.sub(r"(\[serve\]\n)", r"\1mqtt = true\n", made.config.read_text()))
        monkeypatch.setenv("EDGEML_HOMEASSISTANT_PREFIX", made.observer.topics.client("home", DEVICE))
        made.start_agent()
        until(lambda: made.answers(21.0), "it answers again")
        config = f"{made.observer.topics.client('home', DEVICE)}/sensor/{DEVICE}/tiny/config"
        until(lambda: any(at == config for at, _ in made.observer.heard), "the sensor is told")
        made.observer.publish(ask, json.dumps(body(20)).encode())
        until(lambda: any(at == answer for at, _ in made.observer.heard), "the answer is heard")
        found = [json.loads(payload) for at, payload in made.observer.heard if at == answer]
    assert [answered(it) for it in found] == [41.0]

"""Hypothesis on the MQTT door, through a real broker: every request is answered, whatever it holds; none breaks it."""

from __future__ import annotations

import json
import threading
import time
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeml_core.messages import Topics
from fuzz import campaign, driving, hostile, right
from fuzz.hostile import Message
from fuzz.served import DEVICE, FLEET
from fuzz.site import ANSWER_MAX_S, Site, hold_answer

PART: Final = "mqtt"
TOPICS: Final = Topics(FLEET)
#: Requests that are sent before the first of them must be answered; fewer than the door has under way.
TOGETHER: Final = 10


class Asker:
    """A client that sends requests and waits until as many answers have come."""

    def __init__(self, url: str) -> None:
        self._came: list[tuple[str, bytes]] = []
        self._news = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._heard
        address = urlsplit(url)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect(address.hostname or "", address.port or 0)
        self._client.loop_start()
        answers = (f"{TOPICS.root}/device/{DEVICE}/answer/#", f"{TOPICS.root}/client/#")
        self._client.subscribe([(topic, SubscribeOptions(qos=0)) for topic in answers])
        assert subscribed.wait(ANSWER_MAX_S)

    def _heard(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        with self._news:
            self._came.append((message.topic, message.payload))
            self._news.notify()

    def ask(self, asked: list[Message]) -> list[bytes]:
        """The answers, in the order in which they come."""
        with self._news:
            self._came.clear()
        for it in asked:
            self._client.publish(TOPICS.infer(DEVICE, it.model), it.payload, properties=_properties(it))
        with self._news:
            assert self._news.wait_for(lambda: len(self._came) >= len(asked), 2 * ANSWER_MAX_S), asked
            return [payload for _, payload in self._came]

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


def _properties(it: Message) -> Properties:
    given = Properties(PacketTypes.PUBLISH)
    named = {"ResponseTopic": it.reply_to, "CorrelationData": it.correlation, "MessageExpiryInterval": it.expires_s}
    for name, value in named.items():
        if value is not None:
            setattr(given, name, value)
    return given


def test_whatever_is_asked_over_mqtt_is_answered(site: Site) -> None:
    """With outputs or an error of our own; never with a failure of the door."""
    asker = Asker(site.broker)
    together = st.lists(hostile.messages(), min_size=TOGETHER, max_size=TOGETHER)
    driving.each(together, campaign.inputs(PART) // TOGETHER, lambda asked: _hold(asker, asked))
    (answer,) = asker.ask([Message("line", json.dumps(right.ITEMS["line"]).encode(), None, b"7", 60)])
    asker.close()
    assert json.loads(answer)["outputs"] == [{"outputs": {"y": [[3, 5, 7, 9]]}}]
    site.hold()


def _hold(asker: Asker, asked: list[Message]) -> None:
    begun_s = time.perf_counter()
    for answer in asker.ask(asked):
        code = json.loads(answer).get("error", {}).get("code", "ok")
        hold_answer(PART, code, time.perf_counter() - begun_s, f"{TOGETHER} at a time")

"""Hypothesis on the MQTT door, through a real broker: every request is answered, whatever it holds; none breaks it.

Streams and cancellations are among them: a stream's parts have their numbers in order, and an end.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeml_core.messages import Topics
from fuzz import campaign, driving, hostile, right
from fuzz.hostile import Message
from fuzz.served import DEVICE, FLEET
from fuzz.site import ANSWER_MAX_S, Site, hold_answer
from support import paho_clients

PART: Final = "mqtt"
TOPICS: Final = Topics(FLEET)
#: Requests that are sent before the first of them must be answered; fewer than the door has under way.
TOGETHER: Final = 10


class Asker:
    """A client that sends requests and waits until each has its last answer."""

    def __init__(self, url: str) -> None:
        self._numbers = itertools.count()
        #: By correlation data: the numbers of a stream's messages, and the last answer.
        self._parts: dict[bytes, list[int]] = defaultdict(list)
        self._ends: dict[bytes, list[bytes]] = defaultdict(list)
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
        answer = json.loads(message.payload)
        correlation: bytes = message.properties.CorrelationData
        with self._news:
            if "seq" in answer:
                self._parts[correlation].append(answer["seq"])
            if "seq" not in answer or answer.keys() & {"finish", "error"}:
                self._ends[correlation].append(message.payload)
            self._news.notify()

    def ask(self, asked: list[Message]) -> list[bytes]:
        """Return the last answers; a request that names a cancellation may have none."""
        sent = list[bytes]()
        for it in asked:
            own = next(self._numbers).to_bytes(4, "big") + it.correlation
            sent.append(own if it.cancels is None else sent[it.cancels])
            properties = _properties(it, sent[-1])
            self._client.publish(TOPICS.infer(DEVICE, it.model, "a"), it.payload, properties=properties)
        wanted = {key for key, it in zip(sent, asked, strict=True) if it.cancels is None}
        with self._news:
            assert self._news.wait_for(lambda: wanted <= self._ends.keys(), 2 * ANSWER_MAX_S), asked
            for key in wanted:
                parts = self._parts.pop(key, [])
                assert parts == list(range(len(parts))), asked
            return [end for key in wanted for end in self._ends.pop(key)]

    def close(self) -> None:
        """Leave."""
        paho_clients.leave(self._client)


def _properties(it: Message, correlation: bytes) -> Properties:
    given = Properties(PacketTypes.PUBLISH)
    named = {"ResponseTopic": it.reply_to, "CorrelationData": correlation, "MessageExpiryInterval": it.expires_s}
    for name, value in named.items():
        if value is not None:
            setattr(given, name, value)
    return given


def test_whatever_is_asked_over_mqtt_is_answered(site: Site) -> None:
    """With outputs or an error of our own; never with a failure of the door."""
    asker = Asker(site.broker)
    driving.each(hostile.batches(TOGETHER), campaign.inputs(PART) // TOGETHER, lambda asked: _hold(asker, asked))
    (answer,) = asker.ask([Message("line", json.dumps(right.ITEMS["line"]).encode(), None, b"", 60)])
    asker.close()
    assert json.loads(answer)["outputs"] == [{"outputs": {"y": [[3, 5, 7, 9]]}}]
    site.hold()


def _hold(asker: Asker, asked: list[Message]) -> None:
    begun_s = time.perf_counter()
    for answer in asker.ask(asked):
        code = json.loads(answer).get("error", {}).get("code", "ok")
        hold_answer(PART, code, time.perf_counter() - begun_s, f"{TOGETHER} at a time")

"""Inference over MQTT beside HTTP: the added latency of one request, and the throughput of sixteen in flight.

Broker, host and agent are processes of their own. Both APIs lead to the same model, `y = x * 2 + 1`, and take turns.
The clients are http.client and paho.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeml_core.messages import Topics
from harness import host
from harness.figures import Figure, Run
from serving_parts import load
from serving_parts.load import Request
from support.delivery_site import DEVICE, FLEET, MODEL, Site, site

BODY: Final = json.dumps({"inputs": {"x": [[1.0, 2.0, 3.0, 4.0]]}})
REQUEST: Final = Request(f"/v1/models/{MODEL}/predict", BODY)
TOPICS: Final = Topics(FLEET)
REPLIES: Final = TOPICS.client("bench", DEVICE)
IN_FLIGHT: Final = 16
#: Seconds until a reply counts as missing: the agent answers within milliseconds.
REPLY_MAX_S: Final = 10.0
#: Seconds of reading after subscribing: the subscription holds then.
SUBSCRIBE_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """Turns of each API, and requests in a turn."""

    turns: int
    requests: int


FULL: Final = Size(turns=10, requests=200)
QUICK: Final = Size(turns=1, requests=128)


class MqttClient:
    """A client of the agent's inference over MQTT."""

    def __init__(self, port: int) -> None:
        self.replies = 0
        self._properties = Properties(PacketTypes.PUBLISH)
        self._properties.ResponseTopic = REPLIES
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(REPLIES)
        self.read_until(math.inf, timeout_s=SUBSCRIBE_S)

    def send(self) -> None:
        """Send one request."""
        self._properties.CorrelationData = self.replies.to_bytes(4, "big")
        self._client.publish(TOPICS.infer(DEVICE, MODEL), BODY, properties=self._properties)

    def read_until(self, replies: float, timeout_s: float = REPLY_MAX_S) -> None:
        """Read until that number of replies has come in all, or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        while self.replies < replies and (left_s := deadline_s - time.monotonic()) > 0:
            self._client.loop(left_s)
        if math.isfinite(replies) and self.replies < replies:
            raise RuntimeError(f"{self.replies} of {replies:.0f} replies came within {timeout_s} s")

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if b'"outputs"' not in message.payload:
            raise RuntimeError(message.payload.decode())
        self.replies += 1


@dataclass
class Times:
    """The measurements of one API."""

    latencies_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)


def figures(run: Run) -> Iterator[Figure]:
    """Yield latencies and throughputs of both."""
    os.environ["EDGEML_SERVE_MQTT"] = "true"
    with site(run.folder / "mqtt-inference") as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        made.observer.close()
        yield from _measure(made, run.size(FULL, QUICK))


def _measure(made: Site, size: Size) -> Iterator[Figure]:
    client, port = MqttClient(made.broker.port), int(made.http.rpartition(":")[2])
    http, mqtt, watch = Times(), Times(), host.Watch()
    for _ in range(size.turns):
        http.latencies_ms += load.latencies_ms(port, REQUEST, size.requests)
        mqtt.latencies_ms += _mqtt_latencies_ms(client, size.requests)
        http.per_s.append(_http_per_s(port, size.requests))
        mqtt.per_s.append(_mqtt_per_s(client, size.requests))
        watch.lap()
    p50 = {name: statistics.median(it.latencies_ms) for name, it in (("MQTT", mqtt), ("HTTP", http))}
    p99 = {name: statistics.quantiles(it.latencies_ms, n=100)[-1] for name, it in (("MQTT", mqtt), ("HTTP", http))}
    yield Figure(
        name="MQTT inference: p50 added to HTTP's",
        value=p50["MQTT"] - p50["HTTP"],
        unit="ms",
        sides=p50,
        sides_unit="ms",
        host=watch.load,
    )
    yield Figure(name="MQTT inference: p99", value=p99["MQTT"], unit="ms", sides=p99, sides_unit="ms", host=watch.load)
    per_s = {name: statistics.median(it.per_s) for name, it in (("MQTT", mqtt), ("HTTP", http))}
    yield Figure(
        name=f"MQTT inference: throughput against HTTP, {IN_FLIGHT} in flight",
        value=per_s["MQTT"] / per_s["HTTP"],
        unit="x",
        sides=per_s,
        sides_unit="requests/s",
        host=watch.load,
    )


def _mqtt_latencies_ms(client: MqttClient, count: int) -> list[float]:
    times_ms = []
    for _ in range(count):
        begun_s, wanted = time.perf_counter(), client.replies + 1
        client.send()
        client.read_until(wanted)
        times_ms.append((time.perf_counter() - begun_s) * 1000)
    return times_ms[count // 10 :]


def _http_per_s(port: int, requests: int) -> float:
    each, begun_s = requests // IN_FLIGHT, time.perf_counter()
    clients = [threading.Thread(target=load.latencies_ms, args=(port, REQUEST, each)) for _ in range(IN_FLIGHT)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return each * IN_FLIGHT / (time.perf_counter() - begun_s)


def _mqtt_per_s(client: MqttClient, requests: int) -> float:
    first, begun_s = client.replies, time.perf_counter()
    for sent in range(requests):
        client.read_until(first + sent - IN_FLIGHT + 1)
        client.send()
    client.read_until(first + requests)
    return requests / (time.perf_counter() - begun_s)

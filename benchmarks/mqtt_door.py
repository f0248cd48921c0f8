"""What asking over MQTT costs beside HTTP: the added latency of one request, and the throughput of sixteen in flight.

Run from the repository: `PYTHONPATH=tests python benchmarks/mqtt_door.py`, or `make bench`. Broker, host and agent are
processes of their own; both doors lead to the same model, `y = x * 2 + 1`, and take turns. Clients: http.client, paho.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from serving_parts.load import ask

from edgeml_core.messages import Topics
from support.delivery_site import DEVICE, FLEET, MODEL, Site, site

BODY = json.dumps({"inputs": {"x": [[1.0, 2.0, 3.0, 4.0]]}})
PATH = f"/v1/models/{MODEL}/predict"
TOPICS = Topics(FLEET)
OWN = TOPICS.client("bench", DEVICE)
TURNS = 10
REQUESTS = 200
IN_FLIGHT = 16

_web = partial(ask, path=PATH, body=BODY)


class Asker:
    """A client of the door."""

    def __init__(self, port: int) -> None:
        self.answers = 0
        self._properties = Properties(PacketTypes.PUBLISH)
        self._properties.ResponseTopic = OWN
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(OWN)
        self.until(math.inf, timeout_s=0.5)

    def ask(self) -> None:
        """Send one request."""
        self._properties.CorrelationData = self.answers.to_bytes(4, "big")
        self._client.publish(TOPICS.infer(DEVICE, MODEL), BODY, properties=self._properties)

    def until(self, answers: float, timeout_s: float = 10.0) -> None:
        """Hear until so many answers have come in all, or so long."""
        deadline_s = time.monotonic() + timeout_s
        while self.answers < answers and (left_s := deadline_s - time.monotonic()) > 0:
            self._client.loop(left_s)

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if b'"outputs"' not in message.payload:
            raise RuntimeError(message.payload.decode())
        self.answers += 1


def main() -> None:
    """Measure and print."""
    os.environ["EDGEML_SERVE_MQTT"] = "true"
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        made.observer.close()
        _measure(made)


def _measure(made: Site) -> None:
    asker, port = Asker(made.broker.port), int(made.http.rpartition(":")[2])
    web_ms, mqtt_ms, web_per_s, mqtt_per_s = [], [], [], []
    for _ in range(TURNS):
        web_ms += _web(port, REQUESTS)
        mqtt_ms += _mqtt(asker, REQUESTS)
        web_per_s.append(_web_throughput(port))
        mqtt_per_s.append(_mqtt_throughput(asker))
    web, mqtt = statistics.median(web_ms), statistics.median(mqtt_ms)
    print(f"p50 of one request:        MQTT {mqtt:.2f} ms, HTTP {web:.2f} ms: added {mqtt - web:.2f} ms")
    p99 = [statistics.quantiles(times, n=100)[-1] for times in (mqtt_ms, web_ms)]
    print(f"p99 of one request:        MQTT {p99[0]:.2f} ms, HTTP {p99[1]:.2f} ms")
    web, mqtt = statistics.median(web_per_s), statistics.median(mqtt_per_s)
    print(f"requests/s, {IN_FLIGHT} in flight: MQTT {mqtt:.0f}, HTTP {web:.0f}: {mqtt / web:.2f} times")


def _mqtt(asker: Asker, count: int) -> list[float]:
    times_ms = []
    for _ in range(count):
        begun, wanted = time.perf_counter(), asker.answers + 1
        asker.ask()
        asker.until(wanted)
        times_ms.append((time.perf_counter() - begun) * 1000)
    return times_ms


def _web_throughput(port: int) -> float:
    begun = time.perf_counter()
    clients = [threading.Thread(target=_web, args=(port, REQUESTS // IN_FLIGHT)) for _ in range(IN_FLIGHT)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return REQUESTS // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - begun)


def _mqtt_throughput(asker: Asker) -> float:
    begun, first = time.perf_counter(), asker.answers
    for asked in range(REQUESTS):
        asker.until(first + asked - IN_FLIGHT + 1)
        asker.ask()
    asker.until(first + REQUESTS)
    return REQUESTS / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()

"""Devices of the dashboard's fleet at a real broker, that take calls: one replies, one is silent, one is offline."""

from __future__ import annotations

import threading
from collections.abc import Callable

import paho.mqtt.client as paho

from edgeml_core import messages
from edgeml_core.calls import Call, Reply
from edgeml_core.messages import DeviceState, Topics
from support import paho_clients
from support.dashboard_fleet import HOSTILE
from support.waiting import TIMEOUT_S

TOPICS = Topics("edge")
#: The first replies, the second gets its calls and stays silent until `reply_late`, the third is offline.
REPLIES, SILENT, OFFLINE = "d-0", "d-1", "d-2"


class Devices:
    """The devices at the broker; `called` has the calls that have come."""

    def __init__(self, port: int) -> None:
        self.called: list[tuple[str, Call]] = []
        self.reply: Callable[[Call], object] = lambda call: Reply(id=call.id, log=("a line", HOSTILE))
        self._is_up = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "devices", protocol=paho.MQTTv5)
        self._client.on_message = self._hear
        self._client.on_subscribe = lambda *_: self._is_up.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        for device, online in ((REPLIES, True), (SILENT, True), (OFFLINE, False)):
            state = DeviceState(online=online, session=7, models={})
            self._client.publish(TOPICS.state(device), messages.encode(state), qos=1, retain=True)
        self._client.subscribe(TOPICS.call("+"), qos=1)
        assert self._is_up.wait(TIMEOUT_S)

    def _hear(self, client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        device, call = message.topic.split("/")[-2], messages.decode(message.payload, Call)
        self.called.append((device, call))
        if device == REPLIES:
            client.publish(TOPICS.reply(device), messages.encode(self.reply(call)), qos=1)

    def reply_late(self) -> None:
        """Reply now to all calls that the silent device has."""
        for device, call in self.called:
            if device == SILENT:
                self._client.publish(TOPICS.reply(device), messages.encode(Reply(id=call.id)), qos=1)

    def close(self) -> None:
        """Disconnect."""
        paho_clients.leave(self._client)

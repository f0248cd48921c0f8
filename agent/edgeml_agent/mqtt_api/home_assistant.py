"""The served models as sensors of Home Assistant, which finds them by retained messages: no configuration there.

A sensor shows the last answer on `device/ID/answer/MODEL`, that is, to requests that named no topic of their own.
Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery and sensor.mqtt.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Final

import msgspec

from edgeml_agent.link.inference_requests import InferenceRequests
from edgeml_agent.serve.models import Models
from edgeml_core import __version__
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Boxes, Classes, Generation, Span, TensorOutput, TokenClasses

LOOK_EVERY_S: Final = 1.0
#: Home Assistant keeps no longer state, and warns of large attributes.
STATE_MAX_CHARS: Final = 255
LABELS_SHOWN_MAX: Final = 10


class Sensors:
    """The sensors of one device.

    Args:
        prefix: the topic below which Home Assistant looks; `homeassistant` where it wasn't told another.
    """

    def __init__(self, line: InferenceRequests, models: Models, prefix: str) -> None:
        self._line = line
        self._models = models
        self._root = f"{prefix}/sensor/{line.device}"

    async def run(self) -> None:
        """Keep what Home Assistant finds in step with what is served, until cancelled."""
        told: dict[str, bytes] = {}
        connection = None
        while True:
            if connection is not self._line.connection:
                connection, told = (
                    self._line.connection,
                    dict.fromkeys(told, b"?"),
                )  # a broker may forget what it retained
            wanted = dict(self._configs())
            for topic in sorted(wanted.keys() | told.keys()):
                config = wanted.get(topic, b"")
                if told.get(topic) != config and await self._line.publish(topic, config, retain=True):
                    told[topic] = config
            told = {topic: config for topic, config in told.items() if config}
            await asyncio.sleep(LOOK_EVERY_S)

    def _configs(self) -> Iterator[tuple[str, bytes]]:
        for name, served in self._models.active().items():
            if shown := _shown(served.manifest):
                config = self._config(name, shown, has_labels=isinstance(served.manifest.postprocess, Classes))
                yield f"{self._root}/{name}/config", msgspec.json.encode(config)

    def _config(self, name: str, shown: str, *, has_labels: bool) -> dict[str, object]:
        line, answers = self._line, self._line.topics.answer(self._line.device, name)
        config: dict[str, object] = {
            "name": name,
            "unique_id": f"edgeml_{line.device}_{name}",
            "state_topic": answers,
            "value_template": _template(f"({shown})[:{STATE_MAX_CHARS}]", "this.state"),
            "availability_topic": line.topics.state(line.device),
            "availability_template": "{{ 'online' if value_json.online else 'offline' }}",
            "device": {"identifiers": [f"edgeml_{line.device}"], "name": line.device, "sw_version": __version__},
            "origin": {"name": "edgeml", "sw_version": __version__},
        }
        if has_labels:
            surest = f"{{'labels': value_json.outputs[0].labels[:{LABELS_SHOWN_MAX}]}}"
            config["json_attributes_topic"] = answers
            config["json_attributes_template"] = _template(f"{surest} | tojson", "'{}'")
        return config


def _shown(manifest: Manifest) -> str:
    """The Jinja expression for what a sensor shows of an answer, as text; empty where an answer is no state."""
    match manifest.postprocess:
        case Classes():
            part = "labels[0].label"
        case TokenClasses():
            part = "tokens | rejectattr('label', 'eq', 'O') | map(attribute='token') | join(' ')"
        case Boxes():
            part = "boxes | map(attribute='label') | join(', ') | default('nothing', true)"
        case Span():
            part = "answer"
        case Generation():
            part = "text"
        case TensorOutput():
            tensor = manifest.outputs[0]
            part = f"outputs[{json.dumps(tensor.name)}]{'[0]' * len(tensor.shape)} | string"
        case _:
            return ""
    return f"value_json.outputs[0].{part}"


def _template(shown: str, otherwise: str) -> str:
    """What a message shows; an error shows nothing new."""
    return f"{{{{ {shown} if value_json.outputs is defined else {otherwise} }}}}"

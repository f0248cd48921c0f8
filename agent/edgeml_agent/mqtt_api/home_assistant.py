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
from edgeml_core.processing import (
    Boxes,
    Classes,
    Decoded,
    Generation,
    MaskFill,
    Span,
    TensorOutput,
    TokenClasses,
    Transcript,
)

#: Seconds between two looks at the served models; a new model appears within one.
LOOK_EVERY_S: Final = 1.0
#: Characters of a state; Home Assistant keeps no longer one.
STATE_MAX_CHARS: Final = 255
#: Labels in the attributes of a sensor; Home Assistant warns of large attributes.
LABELS_MAX: Final = 10


class Sensors:
    """The sensors of one device.

    Args:
        prefix: the topic below which Home Assistant looks; its default is `homeassistant`.
    """

    def __init__(self, line: InferenceRequests, models: Models, prefix: str) -> None:
        self._line = line
        self._models = models
        self._root = f"{prefix}/sensor/{line.device}"

    async def run(self) -> None:
        """Keep the sensors of Home Assistant in step with the served models, until cancelled."""
        published: dict[str, bytes] = {}
        connection = None
        while True:
            if connection is not self._line.connection:
                connection, published = (
                    self._line.connection,
                    dict.fromkeys(published, b"?"),
                )  # a broker may forget what it retained
            wanted = dict(self._configs())
            for topic in sorted(wanted.keys() | published.keys()):
                config = wanted.get(topic, b"")
                if published.get(topic) != config and await self._line.publish(topic, config, retain=True):
                    published[topic] = config
            published = {topic: config for topic, config in published.items() if config}
            await asyncio.sleep(LOOK_EVERY_S)

    def _configs(self) -> Iterator[tuple[str, bytes]]:
        for name, served in self._models.active().items():
            if state := _state(served.manifest):
                config = self._config(name, state, has_labels=isinstance(served.manifest.postprocess, Classes))
                yield f"{self._root}/{name}/config", msgspec.json.encode(config)

    def _config(self, name: str, state: str, *, has_labels: bool) -> dict[str, object]:
        line, answers = self._line, self._line.topics.answer(self._line.device, name)
        config: dict[str, object] = {
            "name": name,
            "unique_id": f"edgeml_{line.device}_{name}",
            "state_topic": answers,
            "value_template": _template(f"({state})[:{STATE_MAX_CHARS}]", "this.state"),
            "availability_topic": line.topics.state(line.device),
            "availability_template": "{{ 'online' if value_json.online else 'offline' }}",
            "device": {"identifiers": [f"edgeml_{line.device}"], "name": line.device, "sw_version": __version__},
            "origin": {"name": "edgeml", "sw_version": __version__},
        }
        if has_labels:
            surest = f"{{'labels': value_json.outputs[0].labels[:{LABELS_MAX}]}}"
            config["json_attributes_topic"] = answers
            config["json_attributes_template"] = _template(f"{surest} | tojson", "'{}'")
        return config


def _state(manifest: Manifest) -> str:
    """The Jinja expression for a sensor's state, from an answer; empty where an answer can't be one."""
    match manifest.postprocess:
        case Classes():
            part = "labels[0].label"
        case TokenClasses():
            part = "tokens | rejectattr('label', 'eq', 'O') | map(attribute='token') | join(' ')"
        case Boxes():
            part = "boxes | map(attribute='label') | join(', ') | default('nothing', true)"
        case MaskFill():
            part = "fills[0].sequence"
        case Span():
            part = "answer"
        case Generation() | Transcript() | Decoded():
            part = "text"
        case TensorOutput():
            tensor = manifest.outputs[0]
            part = f"outputs[{json.dumps(tensor.name)}]{'[0]' * len(tensor.shape)} | string"
        case _:
            return ""
    return f"value_json.outputs[0].{part}"


def _template(value: str, otherwise: str) -> str:
    """The template of a message's value; after an error the sensor keeps its value."""
    return f"{{{{ {value} if value_json.outputs is defined else {otherwise} }}}}"

"""The MQTT door: a message on `device/ID/infer/MODEL` is a request, its answer goes where the asker said.

The payload is a request as over HTTP, or the bare content of a text or a file. Clients of MQTT 3.1.1, which has no
properties, write `reply_to`, `id` and `timeout_ms` beside the request. Every request is answered, with what came of it
or an error; what can't go where it was asked goes to `device/ID/answer/MODEL`. How messages come is `request_line`'s
business.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final, TypeVar

import msgspec

from edgeml_agent import log
from edgeml_agent.link.inference_requests import REQUEST_MAX_BYTES, InferenceRequest, InferenceRequests
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import Predict
from edgeml_core.errors import DeviceError, EdgemlError, OverloadedError, UsageError
from edgeml_runtime import requests
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item

#: Requests to all models together, from their arrival until the answer is on its way. Fewer than one model's queue
#: holds: whoever floods this door leaves room for those who ask over HTTP.
IN_FLIGHT_MAX: Final = 24
RETRY_AFTER_MIN_S: Final = 1
ANSWER_MAX_BYTES: Final = 1024**2
#: For who names no deadline, and the longest that can be named: nobody sees an asker leave.
DEADLINE_S: Final = 60.0
DEADLINE_MAX_S: Final = 600.0
ID_MAX_CHARS: Final = 128

_Id = Annotated[str, msgspec.Meta(max_length=ID_MAX_CHARS)] | int | None
_Kind = TypeVar("_Kind")
_Parse = Callable[[Model], Sequence[Item]]


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload may say beside the request."""

    id: _Id = None
    reply_to: str | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=int(DEADLINE_MAX_S * 1000))] | None = None


class _Way(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer goes, and by what its asker knows it."""

    topic: str
    correlation: bytes | None
    id: _Id = None


class MqttDoor:
    """The door of one device."""

    def __init__(self, line: InferenceRequests, models: Models) -> None:
        self._line = line
        self._models = models
        self._in_flight = 0

    async def run(self) -> None:
        """Answer requests until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                asked = await self._line.next()
                if self._in_flight < IN_FLIGHT_MAX:
                    self._in_flight += 1
                    tasks.create_task(self._answer(asked)).add_done_callback(self._ended)
                else:
                    # Waited for: who floods the door fills the line's queue, not memory.
                    await self._answer(asked, is_full=True)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._in_flight -= 1

    async def _answer(self, asked: InferenceRequest, *, is_full: bool = False) -> None:
        way = self._usual_way(asked)
        try:
            way = self._with_reply_topic(way, asked.reply_to)
            envelope, parse = _read(asked.payload)
            way = msgspec.structs.replace(way, id=envelope.id)
            way = self._with_reply_topic(way, envelope.reply_to)
            payload = await self._predicted(asked, envelope, parse, is_full=is_full)
        except EdgemlError as error:
            payload = _failure(way.id, error)
        except Exception as error:  # noqa: BLE001 - a defect met by one request must not close the door
            log.defect("request over MQTT failed", error, model=asked.model)
            payload = _failure(way.id, DeviceError("internal", "the request failed", "the agent's log has the details"))
        await self._line.publish(way.topic, payload, correlation=way.correlation)

    async def _predicted(self, asked: InferenceRequest, envelope: _Envelope, parse: _Parse, *, is_full: bool) -> bytes:
        if is_full:
            raise self._overloaded(asked.model)
        predict = Predict(parse=parse, write=partial(_written, envelope.id))
        deadline_s = _deadline_s(asked, envelope)
        size_bytes = len(asked.payload or b"")
        turn = self._models.turn(asked.model, size_bytes=size_bytes) if time.monotonic() < deadline_s else None
        if turn is None:
            payload = await self._models.run(asked.model, predict, deadline_s=deadline_s, size_bytes=size_bytes)
        else:
            with turn as model:
                payload = predict(model)
        if len(payload) > ANSWER_MAX_BYTES:
            message = f"the answer has {len(payload)} bytes, more than {ANSWER_MAX_BYTES}"
            raise UsageError("answer-too-large", message, "ask for less at a time, or over HTTP")
        return payload

    def _overloaded(self, model: str) -> OverloadedError:
        served = self._models.find(model)
        wait_s = max(RETRY_AFTER_MIN_S, math.ceil(served.queue_depth * served.service_s))
        what = f"{IN_FLIGHT_MAX} requests over MQTT are under way"
        return OverloadedError("overloaded", what, f"try again in {wait_s} s", retry_after_s=wait_s)

    def _usual_way(self, asked: InferenceRequest) -> _Way:
        topic = self._line.topics.answer(self._line.device, asked.model)
        return _Way(topic=topic, correlation=asked.correlation)

    def _with_reply_topic(self, way: _Way, reply_to: str | None) -> _Way:
        """The way, led to where the asker wants it."""
        if reply_to is None:
            return way
        if not self._line.topics.takes_answers(self._line.device, reply_to):
            hint = f"name {self._line.topics.client('NAME', self._line.device)}"
            raise UsageError("topic-refused", "answers don't go to the topic named", hint)
        return msgspec.structs.replace(way, topic=reply_to)


def _read(payload: bytes | None) -> tuple[_Envelope, _Parse]:
    """What stands beside the request, and how to read the request itself in the model's thread."""
    if payload is None:
        raise UsageError("body-too-large", f"the request is longer than {REQUEST_MAX_BYTES} bytes", "send it over HTTP")
    start = payload.lstrip()[:1]
    if start == b"{":
        return _decoded(payload, _Envelope), partial(_items, payload)
    if start == b"[":
        return _Envelope(), partial(_items, payload)
    return _Envelope(), lambda model: [requests.from_bytes(payload, model.manifest)]


def _items(payload: bytes, model: Model) -> Sequence[Item]:
    value = _decoded(payload, object)
    if isinstance(value, dict):
        asked = {key: it for key, it in value.items() if key not in _Envelope.__struct_fields__}
        value = asked["items"] if asked.keys() == {"items"} else asked
    return model.parse(value)


def _decoded(payload: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        hint = "send a request as over HTTP; id, reply_to and timeout_ms may stand beside it"
        raise UsageError("input-invalid", f"the request can't be read: {error}", hint) from error


def _deadline_s(asked: InferenceRequest, envelope: _Envelope) -> float:
    """The earliest that the asker named, on the clock of `arrived_s`."""
    timeout_s = None if envelope.timeout_ms is None else envelope.timeout_ms / 1000
    named_s = [it for it in (asked.expires_s, timeout_s) if it is not None]
    return asked.arrived_s + min([*named_s, DEADLINE_MAX_S] if named_s else [DEADLINE_S])


def _written(known_by: _Id, model: Model, outputs: Sequence[Answer]) -> bytes:
    manifest = model.manifest
    return _encoded(known_by, {"model": manifest.name, "version": manifest.version, "outputs": outputs})


def _failure(known_by: _Id, error: EdgemlError) -> bytes:
    after = {"retry_after_s": error.retry_after_s} if isinstance(error, OverloadedError) else {}
    return _encoded(known_by, {"error": error.to_dict() | after})


def _encoded(known_by: _Id, answer: dict[str, object]) -> bytes:
    return msgspec.json.encode(answer if known_by is None else {"id": known_by, **answer})

"""Inference over MQTT: a message on `device/ID/infer/MODEL/CLIENT` is a request of that client.

The payload is a request as over HTTP, or the bare content of a text or a file. Clients of MQTT 3.1.1, which has no
properties, write `reply_to`, `id` and `timeout_ms` beside the request. Every request is answered, by its result or an
error, on `client/CLIENT/ID` if the request names that topic, and else on `device/ID/answer/MODEL`. So no client can
make a device answer another client. `link.inference_requests` receives the messages.

With `stream` beside a request to a language model the answer comes in several messages (`streams`). A client ends its
own request by a message with `cancel` on the same topic, with the same id and correlation data.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Final, TypeVar

import msgspec

from edgeml_agent import log
from edgeml_agent.link.inference_requests import (
    CLIENT_MAX_FRACTION,
    REQUEST_MAX_BYTES,
    InferenceRequest,
    InferenceRequests,
)
from edgeml_agent.mqtt_api import streams
from edgeml_agent.mqtt_api.streams import Stream
from edgeml_agent.serve.calls import Predict, RequestInfo
from edgeml_agent.serve.models import Models
from edgeml_core import decoding
from edgeml_core.errors import DeviceError, EdgemlError, OverloadedError, TransportError, UsageError
from edgeml_runtime import requests
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item

#: Requests to all models together, from their arrival until the answer is published. Fewer than one model's queue
#: holds: a flood of them leaves room for clients over HTTP.
IN_FLIGHT_MAX: Final = 24
#: Those of one client.
CLIENT_IN_FLIGHT_MAX: Final = int(CLIENT_MAX_FRACTION * IN_FLIGHT_MAX)
#: Seconds; the least that a client is asked to wait, as over HTTP.
RETRY_AFTER_MIN_S: Final = 1
#: Bytes of an answer; brokers often refuse longer messages.
ANSWER_MAX_BYTES: Final = 1024**2
#: Seconds until the deadline, by default and at most: a broker doesn't report that a client has left.
DEADLINE_S: Final = 60.0
DEADLINE_MAX_S: Final = 600.0
#: Characters of a request's id; UUIDs have 36.
ID_MAX_CHARS: Final = 128

_Id = Annotated[str, msgspec.Meta(max_length=ID_MAX_CHARS)] | int | None
_Kind = TypeVar("_Kind")
_Parse = Callable[[Model], Sequence[Item]]
#: A request, as its client names it: client, model, id and correlation data.
_Key = tuple[str, str, _Id, bytes | None]


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that may stand beside the request in a payload.

    `cancel` stands alone, beside the id of a request that its client no longer wants. `items` is the request itself,
    unread, where it is a list.
    """

    id: _Id = None
    stream: bool = False
    cancel: bool = False
    reply_to: str | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=int(DEADLINE_MAX_S * 1000))] | None = None
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _ReplyAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The topic of an answer, and the data by which the client finds its request."""

    topic: str
    correlation: bytes | None
    id: _Id = None


class MqttInference:
    """Inference over MQTT on one device."""

    def __init__(self, line: InferenceRequests, models: Models) -> None:
        self._line = line
        self._models = models
        #: Requests under way, by client.
        self._in_flight: Counter[str] = Counter()
        #: The requests that a client may cancel, by the scope around their work.
        self._cancellable: dict[asyncio.Timeout, _Key] = {}

    async def run(self) -> None:
        """Answer requests until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                asked = await self._line.next()
                is_full = self._in_flight.total() >= IN_FLIGHT_MAX
                if not is_full and self._in_flight[asked.client] < CLIENT_IN_FLIGHT_MAX:
                    self._in_flight[asked.client] += 1
                    tasks.create_task(self._answer(asked)).add_done_callback(partial(self._ended, asked.client))
                else:
                    # Awaited: a flood of requests fills the bounded queue in front of this, not memory.
                    await self._answer(asked, is_full=True)

    def _ended(self, client: str, _: asyncio.Task[None]) -> None:
        self._in_flight[client] -= 1
        if not self._in_flight[client]:
            del self._in_flight[client]

    async def _answer(self, asked: InferenceRequest, *, is_full: bool = False) -> None:
        reply = self._default_reply(asked)
        try:
            reply = self._with_reply_topic(reply, asked.client, asked.reply_to)
            envelope, parse = _read(asked.payload)
            reply = msgspec.structs.replace(reply, id=envelope.id)
            reply = self._with_reply_topic(reply, asked.client, envelope.reply_to)
            if envelope.cancel:
                self._cancel(_key(asked, envelope))
                return
            if envelope.stream:
                await self._stream(asked, envelope, parse, reply, is_full=is_full)
                return
            payload = await self._predict(asked, envelope, parse, is_full=is_full)
        except EdgemlError as error:
            payload = _failure(reply.id, error)
        except Exception as error:  # noqa: BLE001 - a defect met by one request must not end others
            log.defect("request over MQTT failed", error, model=asked.model)
            failure = DeviceError("internal", "the request failed", "see the agent's log for the details")
            payload = _failure(reply.id, failure)
        if not await self._line.publish(reply.topic, payload, correlation=reply.correlation):
            # Without a connection this one is lost, too.
            refusal = _failure(reply.id, streams.too_large(f"the broker takes no answer of {len(payload)} bytes"))
            await self._line.publish(reply.topic, refusal, correlation=reply.correlation)

    async def _predict(self, asked: InferenceRequest, envelope: _Envelope, parse: _Parse, *, is_full: bool) -> bytes:
        if is_full:
            raise self._overloaded(asked)
        predict = Predict(parse=parse, write=partial(_written, envelope.id))
        # A list has no size: each of its items takes a run's time.
        size_bytes = len(asked.payload or b"") if envelope.items is msgspec.UNSET else None
        info = RequestInfo(size_bytes=size_bytes, deadline_s=_deadline_s(asked, envelope))
        async with self._until_cancelled(_key(asked, envelope)):
            payload = await self._models.run(asked.model, predict, info)
        if len(payload) > ANSWER_MAX_BYTES:
            raise streams.too_large(f"the answer has {len(payload)} bytes, more than {ANSWER_MAX_BYTES}")
        return payload

    async def _stream(
        self, asked: InferenceRequest, envelope: _Envelope, parse: _Parse, reply: _ReplyAddress, *, is_full: bool
    ) -> None:
        async def publish(message: dict[str, object]) -> bool:
            payload = _encoded(reply.id, message)
            return await self._line.publish(reply.topic, payload, correlation=reply.correlation)

        stream = Stream(asked.model, publish)
        if is_full:
            await stream.fail(self._overloaded(asked))
            return
        info = RequestInfo(deadline_s=_deadline_s(asked, envelope))
        pieces = self._models.stream(asked.model, partial(streams.generate, parse), info)
        await stream.run(pieces, self._until_cancelled(_key(asked, envelope)))

    @asynccontextmanager
    async def _until_cancelled(self, key: _Key) -> AsyncIterator[None]:
        """End the block by a `TransportError` when its client cancels the request."""
        try:
            async with asyncio.timeout(None) as scope:
                self._cancellable[scope] = key
                try:
                    yield
                finally:
                    self._cancellable.pop(scope, None)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise TransportError("client-left", "the client cancelled the request", "send it again") from error

    def _cancel(self, key: _Key) -> None:
        """End the requests of that key, at their next token."""
        for scope in [scope for scope, other in self._cancellable.items() if other == key]:
            del self._cancellable[scope]
            scope.reschedule(asyncio.get_running_loop().time())

    def _overloaded(self, asked: InferenceRequest) -> OverloadedError:
        served = self._models.find(asked.model)
        wait_s = max(RETRY_AFTER_MIN_S, math.ceil(served.queue_depth * served.service_s))
        own, limits = self._in_flight[asked.client], f"at most {IN_FLIGHT_MAX} and {CLIENT_IN_FLIGHT_MAX}"
        what = f"{self._in_flight.total()} requests over MQTT are under way, {own} of them yours; {limits} may be"
        return OverloadedError("overloaded", what, f"try again in {wait_s} s", retry_after_s=wait_s)

    def _default_reply(self, asked: InferenceRequest) -> _ReplyAddress:
        topic = self._line.topics.answer(self._line.device, asked.model)
        return _ReplyAddress(topic=topic, correlation=asked.correlation)

    def _with_reply_topic(self, reply: _ReplyAddress, client: str, reply_to: str | None) -> _ReplyAddress:
        """Return the address with the topic that the client names: it may name its own, and no other."""
        if reply_to is None:
            return reply
        if reply_to != (own := self._line.topics.client(client, self._line.device)):
            message = f"answers to {client!r} don't go to the topic {reply_to!r}"
            raise UsageError("topic-refused", message, f"name {own}")
        return msgspec.structs.replace(reply, topic=reply_to)


def _key(asked: InferenceRequest, envelope: _Envelope) -> _Key:
    return asked.client, asked.model, envelope.id, asked.correlation


def _read(payload: bytes | None) -> tuple[_Envelope, _Parse]:
    """Read the fields beside the request; return a parser of the request itself, which runs where the model does."""
    if payload is None:
        raise UsageError("body-too-large", f"the request is longer than {REQUEST_MAX_BYTES} bytes", "send it over HTTP")
    start = payload.lstrip()[:1]
    if start == b"{":
        return _decoded(payload, _Envelope), partial(_items, payload)
    if start == b"[":
        return _Envelope(items=msgspec.Raw(payload)), partial(_items, payload)
    return _Envelope(), lambda model: [requests.from_bytes(payload, model.manifest)]


def _items(payload: bytes, model: Model) -> Sequence[Item]:
    value = _decoded(payload, object)
    if isinstance(value, dict):
        request = {key: it for key, it in value.items() if key == "items" or key not in _Envelope.__struct_fields__}
        value = request["items"] if request.keys() == {"items"} else request
    return model.parse(value)


def _decoded(payload: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return decoding.from_json(payload, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        hint = "send a request as over HTTP; id, reply_to, timeout_ms and stream may stand beside it"
        raise UsageError("input-invalid", f"the request can't be read: {error}", hint) from error


def _deadline_s(asked: InferenceRequest, envelope: _Envelope) -> float:
    """The earliest deadline that the client named, on the clock of `arrived_s`."""
    timeout_s = None if envelope.timeout_ms is None else envelope.timeout_ms / 1000
    named_s = [it for it in (asked.expires_s, timeout_s) if it is not None]
    return asked.arrived_s + min([*named_s, DEADLINE_MAX_S] if named_s else [DEADLINE_S])


def _written(request_id: _Id, model: Model, outputs: Sequence[Answer]) -> bytes:
    manifest = model.manifest
    return _encoded(request_id, {"model": manifest.name, "version": manifest.version, "outputs": outputs})


def _failure(request_id: _Id, error: EdgemlError) -> bytes:
    return _encoded(request_id, {"error": streams.failure(error)})


def _encoded(request_id: _Id, answer: dict[str, object]) -> bytes:
    return msgspec.json.encode(answer if request_id is None else {"id": request_id, **answer})

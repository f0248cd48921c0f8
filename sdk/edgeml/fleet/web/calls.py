"""Calls of the dashboard's accounts to devices. They wait for the devices in the event loop, in no thread.

Each has a bound in time, and few are under way at a time: of all accounts together, and of each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from starlette.responses import Response

from edgeml.fleet import device_calls, own_certificate
from edgeml.fleet.call import CallConnection, DeviceConnection
from edgeml.fleet.device_calls import DeviceCalls
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml.fleet.web import http_errors
from edgeml.fleet.web.exchange import Exchange, json
from edgeml.fleet.web.gateway import Endpoint, converted
from edgeml.fleet.web.operations import ANSWER_MAX_S, Failed, NewCall, Refusal
from edgeml.fleet.web.pages import Pages
from edgeml.fleet.web.threads import Threads
from edgeml.repository import RepositoryFolder, broker_config
from edgeml_core import decoding
from edgeml_core.calls import Call, Refused, Reply, Timing
from edgeml_core.errors import EdgemlError, OverloadedError, RejectedError

#: Calls at a time, of all accounts and of one.
CALLS_MAX: Final = 8
ACCOUNT_CALLS_MAX: Final = 2
#: Seconds between two looks whether the dashboard is ending.
LOOK_EVERY_S: Final = 1.0
#: The status of an error in the device's reply, of any code: the request was right.
_REFUSED_STATUS: Final = 502


class DashboardCalls:
    """The endpoints that call devices.

    Args:
        repository: has the audit log, and releases for `verify` and `bench`.
        registry: the models of each device.
        broker: as the host reaches it.
        threads: record calls and make pages.
        pages: make the page of a device with an answer.
    """

    def __init__(
        self, repository: RepositoryFolder, registry: Registry, broker: Broker, threads: Threads, pages: Pages
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._broker = broker
        self._threads = threads
        self._pages = pages
        self._calling = CallConnection()
        self._under_way: Counter[str] = Counter()

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints, by name."""
        return {"call_device": self._by_api, "call_form": self._by_form}

    async def _by_api(self, exchange: Exchange) -> Response:
        reply = await self._ask(exchange, exchange.body)
        if reply.refused is None:
            return json(reply)
        error = reply.refused
        return json(Failed(error=Refusal(code=error.code, message=error.message, hint=error.hint)), _REFUSED_STATUS)

    async def _by_form(self, exchange: Exchange) -> Response:
        fields = {name: value for name, value in exchange.body.items() if name in NewCall.__struct_fields__}
        asked = converted(lambda: decoding.convert(fields, NewCall, strict=False), "form")
        try:
            reply = await self._ask(exchange, asked)
            status = 200 if reply.refused is None else _REFUSED_STATUS
        except OverloadedError:
            raise
        except EdgemlError as error:
            reply, status = Reply(refused=Refused.of(error)), http_errors.status_of(error.code)
        return await self._threads.run(lambda: self._pages.device(exchange, asked=asked, reply=reply, status=status))

    async def _ask(self, exchange: Exchange, asked: NewCall) -> Reply:
        """Record a call and send it; the reply may hold an error.

        Raises:
            UsageError, TransportError: as `DeviceCalls.ask`. OverloadedError: `overloaded`.
        """
        with self._counted(exchange.actor):
            asking = asyncio.create_task(self._send(exchange.params["device"], exchange.actor, asked))
            try:
                while not (await asyncio.wait({asking}, timeout=LOOK_EVERY_S))[0]:
                    if self._threads.is_ending:
                        raise _overloaded("the host ends", 30)
                return asking.result()
            finally:
                asking.cancel()

    async def _send(self, device: str, actor: str, asked: NewCall) -> Reply:
        """As `_ask`, without its bounds in number. A call that isn't recorded in time isn't sent."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                connection, call = await self._threads.run(lambda: self._record(device, actor, asked), is_act=True)
        except TimeoutError:
            raise _overloaded(f"{device} wasn't called: a command holds the repository", 30) from None
        left_s = ANSWER_MAX_S - (time.monotonic() - began_s)
        try:
            return await self._calling.ask(connection, device, call, wait_s=left_s)
        except RejectedError as error:
            return Reply(refused=Refused.of(error))

    def _record(self, device: str, actor: str, asked: NewCall) -> tuple[DeviceConnection, Call]:
        models = partial(device_calls.reported_models, self._repository, self._registry)
        sending = DeviceCalls(self._repository, models, self._connection, actor=actor)
        timing, model = Timing(seconds=asked.seconds), asked.model or None
        return sending.record(device, asked.kind, model=model, timing=timing, lines=asked.lines)

    def _connection(self) -> DeviceConnection:
        broker = own_certificate.to_call(self._repository, self._broker, broker_config.DASHBOARD_NAME)
        return DeviceConnection(broker=broker, fleet=self._repository.fleet_name)

    @contextmanager
    def _counted(self, actor: str) -> Iterator[None]:
        if self._under_way.total() >= CALLS_MAX or self._under_way[actor] >= ACCOUNT_CALLS_MAX:
            message = f"{self._under_way.total()} calls are under way, {self._under_way[actor]} of them of {actor}"
            raise _overloaded(f"{message}; the limits are {CALLS_MAX} and {ACCOUNT_CALLS_MAX}", 10)
        self._under_way[actor] += 1
        try:
            yield
        finally:
            self._under_way[actor] -= 1
            self._under_way += Counter()  # drops those without a call


def _overloaded(message: str, seconds: int) -> OverloadedError:
    return OverloadedError("overloaded", message, f"call again in {seconds} s", retry_after_s=seconds)

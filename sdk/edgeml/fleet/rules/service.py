"""The tasks of the host that leads: steer rollouts, look by the rules, answer, send notices, collect logs.

Each task goes on when another one fails. Notices wait in the database: a webhook or broker that is away delays them.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import msgspec

from edgeml.fleet import device_calls, own_certificate
from edgeml.fleet import webhook as webhooks
from edgeml.fleet.call import DeviceConnection
from edgeml.fleet.device_calls import DeviceCalls
from edgeml.fleet.leadership import Leadership
from edgeml.fleet.link import Broker
from edgeml.fleet.recorder import Events
from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts import loop as rollout_loop
from edgeml.fleet.rollouts.steering import CONTROLLER, Steering
from edgeml.fleet.rules import answers, saved
from edgeml.fleet.rules.answers import Answers, Notice
from edgeml.fleet.rules.records import Records, Target
from edgeml.fleet.webhook import Webhook
from edgeml.repository import RepositoryFolder, broker_config, layout
from edgeml_core.errors import EdgemlError
from edgeml_io import backoff, files
from edgeml_io.mqtt import Connection

#: Seconds between two looks, and the fraction of the time in which looks may run.
LOOK_EVERY_S: Final = 5.0
BUSY_MAX: Final = 0.1
#: Notices about one device alone within an hour: it leaves room for the others' while a target is away.
NOTICES_OF_DEVICE_MAX: Final = 30
#: Seconds between two looks for a notice to send.
SEND_EVERY_S: Final = 1.0
#: Seconds between attempts at first, and at most.
RETRY_FIRST_S: Final = 2.0
RETRY_MAX_S: Final = 300.0
#: Devices that wait to be called; more are left out, and their notices have them.
COLLECTS_MAX: Final = 100
#: Seconds for each of the two calls: a silent device holds up the others.
COLLECT_WAIT_S: Final = 60.0
#: The folder of collected logs and checks in a repository, a file for each device: its last one.
COLLECTED_FOLDER: Final = "collected"


class RuleService:
    """The rules of one repository.

    Args:
        repository: has the rules, and gets the collected files.
        registry: the devices' states and reports, and the waiting notices.
        leadership: only the leader answers.
        events: receives failures.
        webhook: gets notices; None for none.
        calls: call devices for their logs and checks.
    """

    def __init__(
        self,
        repository: RepositoryFolder,
        registry: Registry,
        leadership: Leadership,
        events: Events,
        *,
        webhook: Webhook | None,
        calls: DeviceCalls,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._leadership = leadership
        self._events = events
        self._webhook = webhook
        self._calls = calls
        self._records = Records(registry.database)
        self._steering = Steering(repository, registry, leadership.check)
        #: Devices to call in turn, the present one first.
        self._collects: dict[str, None] = {}
        self._has_collects = asyncio.Event()
        self._reported = ""
        #: The present hour, and the notices about each device alone in it.
        self._hour = 0
        self._notices_of: Counter[str] = Counter()

    async def run(self) -> NoReturn:
        """Steer rollouts, look, answer and send to the webhook until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rollout_loop.run(self._repository, self._registry, self._leadership, self._events))
            tasks.create_task(self._look_often())
            tasks.create_task(self._collect())
            if self._webhook is not None:
                tasks.create_task(self._send("webhook", self._post))
        raise AssertionError("the tasks never end by themselves")

    async def publish_notices(self, connection: Connection, topic: str) -> NoReturn:
        """Publish the notices that wait for the fleet's topic, as long as the connection lasts."""

        async def send(body: bytes) -> None:
            await connection.publish(topic, body, qos=1)

        await self._send("mqtt", send)

    async def _look_often(self) -> NoReturn:
        while True:
            await self._leadership.until(is_leader=True)
            began_s = time.monotonic()
            try:
                given = await asyncio.to_thread(self.look, layout.utc_now())
                self._let_wait(given.collects)
                self._reported = ""
            except EdgemlError as error:
                self._report(f"rules aren't followed: {error.message}", error)
            await asyncio.sleep(max(LOOK_EVERY_S, (time.monotonic() - began_s) * (1 / BUSY_MAX - 1)))

    def look(self, now: datetime) -> Answers:
        """Answer the conditions that are new: pause rollouts, and let notices wait.

        Raises:
            DeviceError: `store-failed`; `not-leader`. UsageError: `repo-invalid`.
        """
        rules, rollouts = saved.saved(self._repository), self._steering.rollouts.all()
        holding = answers.conditions(
            self._registry.devices(), self._registry.failed(), rollouts, rules, now.timestamp()
        )
        given = answers.decide(self._records.known(), holding, rules, rollouts)
        # Before the conditions are recorded: a host that dies in between pauses at the next look.
        for rollout, reason in given.pauses.items():
            self._steering.pause(rollout, reason, now=now)
        targets: tuple[Target, ...] = ("mqtt",) if self._webhook is None else ("mqtt", "webhook")
        bodies = [_encode(it, self._repository.fleet_name, now) for it in self._shared(given.notices, now)]
        waiting = [(target, body) for body in bodies for target in targets]
        if given.raised or given.cleared or self._records.known() is None:
            dropped = self._records.record(given.raised, given.cleared, waiting, self._leadership.check)
            if dropped:
                text = f"{dropped} notice(s) that waited for too long were dropped"
                self._events.event("notices-dropped", text, count=dropped)
        return given

    def _shared(self, notices: Iterable[Notice], now: datetime) -> Iterator[Notice]:
        """Leave out notices about a device that has had its share of the hour; the first one is an event."""
        hour = int(now.timestamp() // 3600)
        if hour != self._hour:
            self._hour, self._notices_of = hour, Counter()
        for it in notices:
            if it.count == 1:
                self._notices_of[it.devices[0]] += 1
                if (count := self._notices_of[it.devices[0]]) > NOTICES_OF_DEVICE_MAX:
                    if count == NOTICES_OF_DEVICE_MAX + 1:
                        text = f"{it.devices[0]} has had {NOTICES_OF_DEVICE_MAX} notices this hour: more are left out"
                        self._events.event("notices-dropped", text, device=it.devices[0])
                    continue
            yield it

    async def _send(self, target: Target, send: Callable[[bytes], Awaitable[None]]) -> NoReturn:
        delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            await self._leadership.until(is_leader=True)
            try:
                waiting = await asyncio.to_thread(self._records.next, target)
                if waiting is None:
                    await asyncio.sleep(SEND_EVERY_S)
                    continue
                number, body = waiting
                await send(body)
                await asyncio.to_thread(self._records.remove, number)
                delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
            except EdgemlError as error:
                self._report(f"a notice can't be sent: {error.message}", error)
                await asyncio.sleep(next(delays))

    async def _post(self, body: bytes) -> None:
        """Send a notice to the webhook; one that the receiver refuses for its content counts as sent."""
        assert self._webhook is not None  # noqa: S101 - the task runs with a webhook alone
        status = await webhooks.post(self._webhook, body)
        if status in webhooks.REFUSED:
            text = f"the webhook {self._webhook.name} refused a notice with status {status}"
            self._events.event("notice-refused", text, status=status)
        elif not 200 <= status < 300:
            raise webhooks.failed(self._webhook, f"answered with status {status}")

    def _let_wait(self, devices: Iterable[str]) -> None:
        """Let devices wait to be called, each once."""
        for device in devices:
            if len(self._collects) < COLLECTS_MAX:
                self._collects[device] = None
        self._has_collects.set()

    async def _collect(self) -> NoReturn:
        while True:
            if not self._collects:
                self._has_collects.clear()
                await self._has_collects.wait()
                continue
            device = next(iter(self._collects))
            try:
                path = await asyncio.to_thread(self._collect_from, device)
                self._events.event("collected", f"collected the log of {device}: {path}", device=device)
            except (EdgemlError, OSError) as error:
                text = f"the log of {device} can't be collected: {error}"
                self._events.event("collect-failed", text, device=device)
            del self._collects[device]

    def _collect_from(self, device: str) -> str:
        log, checks = (self._calls.ask(device, kind, wait_s=COLLECT_WAIT_S) for kind in ("logs", "doctor"))
        folder = self._repository.folder / COLLECTED_FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / f"{device}.json"
        value = {"device": device, "time": _iso(layout.utc_now()), "log": log.log, "checks": checks.checks}
        files.write(path, msgspec.json.encode(value))
        return str(path)

    def _report(self, text: str, error: EdgemlError) -> None:
        """Report a failure once, until another one or a success."""
        if error.code != "not-leader" and text != self._reported:
            self._reported = text
            self._events.event("rules-failed", text, **error.to_dict())


def of_host(
    repository: RepositoryFolder,
    registry: Registry,
    leadership: Leadership,
    events: Events,
    *,
    broker: Broker,
    webhook: Webhook | None,
) -> RuleService:
    """Make the service of one host; its calls have the controller's name in the audit log."""

    def connection() -> DeviceConnection:
        to_call = own_certificate.to_call(repository, broker, broker_config.OPERATOR_NAME)
        return DeviceConnection(broker=to_call, fleet=repository.fleet_name)

    models = functools.partial(device_calls.reported_models, repository, registry)
    calls = DeviceCalls(repository, models, connection, actor=CONTROLLER)
    return RuleService(repository, registry, leadership, events, webhook=webhook, calls=calls)


def _encode(notice: Notice, fleet: str, now: datetime) -> bytes:
    fields: dict[str, Any] = msgspec.to_builtins(notice)
    return msgspec.json.encode({"id": secrets.token_hex(8), "time": _iso(now), "fleet": fleet, **fields})


def _iso(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")

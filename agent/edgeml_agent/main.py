"""`edgeml-agent run`: the adapters wired to the shell, the HTTP server beside it, an orderly end on SIGTERM.

Only here does everything meet; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeml_agent import log, ports
from edgeml_agent.http_api import app, auth, server, tls
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.link.link import MqttLink
from edgeml_agent.link.signed_files import BlockingFiles
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_agent.ports import ChunkSource, TrustSource
from edgeml_agent.probe.prober import ChildProber
from edgeml_agent.probe.remote_calls import Calls
from edgeml_agent.schedule import DeviceCalendar
from edgeml_agent.serve.models import Models
from edgeml_agent.settings import ServeSettings, Settings
from edgeml_agent.store import locks
from edgeml_agent.store.database import Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.system import memory
from edgeml_agent.system.systemd import STOPPING, Supervisor
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.trust.time_floor import TimeFloor
from edgeml_agent.trust.trust import Trust
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.daemon import Daemon
from edgeml_agent.update.reporter import Reporter
from edgeml_core import __version__
from edgeml_core.errors import UsageError
from edgeml_runtime.hardware import board

if TYPE_CHECKING:
    from edgeml_agent.relay.relay import Relay


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


def run(settings: Settings) -> None:
    """Be the agent until SIGTERM or SIGINT.

    Raises:
        UsageError: another agent uses the store, or the settings can't be used. DeviceError: the store fails.
    """
    memory.return_large_blocks()
    lock = locks.take(settings.store.dir / locks.AGENT)
    if lock is None:
        raise UsageError("usage", f"another agent runs on {settings.store.dir}", "stop it, or use another [store] dir")
    with lock, contextlib.suppress(asyncio.CancelledError):
        try:
            with asyncio.Runner(loop_factory=_event_loop()) as runner:
                runner.run(_run(settings))
        except BaseExceptionGroup as group:
            raise _first(group) from group


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, which sends an answer's head and body together, where it is installed; else Python's own."""
    try:
        import uvloop  # noqa: PLC0415 - there are boards without a wheel of it
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings) -> None:
    """All parts, until cancelled."""
    this_task = asyncio.current_task()
    assert this_task is not None  # noqa: S101 - asyncio.run runs us in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    store, models = Store(settings.store.dir), Models()
    floor = TimeFloor(settings.trust.root, settings.store.dir)
    link = MqttLink(
        settings.broker,
        settings.device,
        store.next_session,
        is_late=floor.is_late,
        max_bytes_per_s=settings.update.max_bytes_per_s,
    )
    relay = _relay(settings, link)
    daemon = _daemon(settings, store, models, _Roads(settings, link, floor, relay))
    address, supervisor, encrypted = settings.serve.http, Supervisor(os.environ), _tls(settings.serve)
    listener = server.inherited(os.environ) or server.listen(address.host, address.port)
    rules = auth.rules(listener.getsockname()[0], settings.serve.token_file)
    info = ServerInfo(device=settings.device.id, version=__version__, ready=lambda: daemon.ready)
    log.event("listening", http="{}:{}".format(*listener.getsockname()[:2]), tls=encrypted is not None)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(app.build(models, info, rules, daemon.metrics), listener, encrypted))
            tasks.create_task(daemon.run())
            tasks.create_task(supervisor.run(info.ready))
            if settings.serve.mqtt:
                tasks.create_task(_answer_requests(settings, link, models))
            if relay is not None:
                tasks.create_task(relay.run())
    finally:
        supervisor.tell(STOPPING)
        await models.close()
        store.close()
        log.event("stopped")


def _tls(serve: ServeSettings) -> ssl.SSLContext | None:
    return tls.context(serve.cert, serve.key) if serve.cert and serve.key else None


def _relay(settings: Settings, link: MqttLink) -> Relay | None:
    if settings.relay is None:
        return None
    from edgeml_agent.relay import relay  # noqa: PLC0415 - few devices are one

    return relay.made(settings.relay, settings.device, link, settings.store.dir)


async def _answer_requests(settings: Settings, link: MqttLink, models: Models) -> None:
    """Be the MQTT door, and say in Home Assistant's way what can be asked there."""
    line, prefix = link.open_requests(), settings.homeassistant.prefix
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(MqttInference(line, models).run())
        if prefix is not None:
            from edgeml_agent.mqtt_api.home_assistant import Sensors  # noqa: PLC0415 - few have one

            tasks.create_task(Sensors(line, models, prefix).run())


class _Roads:
    """Where this device's signed files and chunks come from: over its link, or through its own relay."""

    def __init__(self, settings: Settings, link: MqttLink, floor: TimeFloor, relay: Relay | None) -> None:
        self.link = link
        files = BlockingFiles(link.file, asyncio.get_running_loop())

        def judge(source: TrustSource) -> Trust:
            return Trust(settings.trust.root, settings.store.dir, source, floor)

        self.trust: ports.Trust = judge(files) if relay is None else relay.trust(files, judge)
        self.chunks: ChunkSource = link if relay is None else relay.chunks


def _daemon(settings: Settings, store: Store, models: Models, roads: _Roads) -> Daemon:
    folder, clock, machine, link = settings.store.dir, SystemClock(), board.this_machine(), roads.link
    releases, prober = Releases(folder, settings.store.max_bytes), ChildProber()
    telling = Reporter(link, machine, store, releases, clock, drifts=models.watches.drifts)
    world = Ports(
        trust=roads.trust,
        chunks=roads.chunks,
        store=store,
        releases=releases,
        groups=GroupKeys(settings.trust.groups),
        prober=prober,
        server=models,
        clock=clock,
        calendar=DeviceCalendar(fetch=settings.update.fetch_window, activate=settings.update.window),
    )
    rule = settings.shadow if settings.serve.shadow else None
    agent = Agent(settings.device.id, machine, world, telling, rule=rule)
    calls = Calls(link, releases, prober)
    tunes = settings.serve.tune
    return Daemon(agent, link, store, telling, calls=calls, clock=clock, folder=folder, tunes=tunes)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group

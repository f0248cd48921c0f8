"""`edgeml-agent run`: connect the adapters to the ports, serve HTTP beside the updates, end in order on SIGTERM.

This module only connects parts; it decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from edgeml_agent import log, ports
from edgeml_agent.http_api import app, auth, server, tls
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.link import link_state
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
from edgeml_agent.system.clock import SystemClock
from edgeml_agent.system.systemd import STOPPING, Supervisor
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.trust.time_floor import TimeFloor
from edgeml_agent.trust.trust import Trust, verified_metadata
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.daemon import Daemon, keep_running
from edgeml_agent.update.reporter import Reporter
from edgeml_core import __version__
from edgeml_core.calls import Check
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_io import aio
from edgeml_runtime.hardware import board

if TYPE_CHECKING:
    from edgeml_agent.relay.relay import Relay


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT; a restart that an operator called for begins it again.

    Raises:
        UsageError: another agent uses the store, or the settings can't be used. DeviceError: the store fails.
    """
    memory.return_large_blocks()
    memory.keep_loaded()
    lock = locks.take(settings.store.dir / locks.AGENT)
    if lock is None:
        raise UsageError("usage", f"another agent runs on {settings.store.dir}", "stop it, or use another [store] dir")
    link_state.clear(settings.store.dir)
    restart = _Restart()
    with lock, contextlib.suppress(asyncio.CancelledError):
        try:
            with asyncio.Runner(loop_factory=_event_loop()) as runner:
                runner.run(_run(settings, restart))
        except BaseExceptionGroup as group:
            aio.raise_first(group)
    restart.carry_out(os.environ)


class _Restart:
    """A restart that an operator has requested: the agent ends as by SIGTERM, and its program begins again."""

    def __init__(self) -> None:
        self._is_requested = False

    def request(self) -> None:
        """End the agent in order."""
        self._is_requested = True
        signal.raise_signal(signal.SIGTERM)

    def carry_out(self, environment: Mapping[str, str]) -> None:
        """Begin the program again, in this process; under systemd end it, since `Restart=always` starts another."""
        is_supervised = "NOTIFY_SOCKET" in environment or environment.get("LISTEN_PID") == str(os.getpid())
        if self._is_requested and not is_supervised:
            os.execv(sys.executable, (sys.executable, *sys.orig_argv[1:]))  # noqa: S606 - its own arguments


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory where installed, as it sends an answer's head and body together; else None."""
    try:
        import uvloop  # noqa: PLC0415 - some boards have no wheel of it
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings, restart: _Restart) -> None:
    """Run all parts until cancelled."""
    this_task = asyncio.current_task()
    assert this_task is not None  # noqa: S101 - asyncio.run runs us in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    store, models = Store(settings.store.dir), Models()
    floor = TimeFloor(settings.trust.root, settings.store.dir)
    link = MqttLink(
        settings.broker,
        settings.device,
        store.next_session,
        late_floor=floor.late_floor,
        on_state=partial(link_state.write, settings.store.dir),
        max_bytes_per_s=settings.update.max_bytes_per_s,
        store=settings.store.dir,
    )
    relay = _relay(settings, link)
    daemon = _daemon(settings, store, models, _Sources(settings, link, floor, relay), restart)
    address, supervisor, encrypted = settings.serve.http, Supervisor(os.environ), _tls(settings.serve)
    listener = server.inherited_or_new(os.environ, address.host, address.port)
    rules = auth.rules(listener.getsockname()[0], settings.serve.token_file)
    info = ServerInfo(device=settings.device.id, version=__version__, ready=lambda: daemon.ready)
    log.event("listening", http="{}:{}".format(*listener.getsockname()[:2]), tls=encrypted is not None)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(app.build(models, info, rules, daemon.metrics), listener, encrypted))
            tasks.create_task(daemon.run())
            tasks.create_task(supervisor.run(info.ready))
            if settings.serve.mqtt:
                answer = partial(_answer_requests, settings, link, models)
                tasks.create_task(keep_running("requests over MQTT", answer, SystemClock()))
    finally:
        supervisor.notify(STOPPING)
        await models.close()
        store.close()
        log.event("stopped")


def _tls(serve: ServeSettings) -> ssl.SSLContext | None:
    return tls.context(serve.cert, serve.key) if serve.cert and serve.key else None


def _relay(settings: Settings, link: MqttLink) -> Relay | None:
    if settings.relay is None:
        return None
    from edgeml_agent.relay import relay  # noqa: PLC0415 - few devices are relays

    return relay.build(settings.relay, settings.device, link, settings.store.dir)


async def _answer_requests(settings: Settings, link: MqttLink, models: Models) -> None:
    """Serve the inference API over MQTT, and publish its models to Home Assistant where configured."""
    line, prefix = link.open_requests(), settings.homeassistant.prefix
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(MqttInference(line, models).run())
        if prefix is not None:
            from edgeml_agent.mqtt_api.home_assistant import Sensors  # noqa: PLC0415 - few devices have sensors

            tasks.create_task(Sensors(line, models, prefix).run())


class _Sources:
    """The sources of signed files and chunks: the device's link, or its own relay; and the floor of its time."""

    def __init__(self, settings: Settings, link: MqttLink, floor: TimeFloor, relay: Relay | None) -> None:
        self.link = link
        self.relay = relay
        self.floor = floor.floor
        files = BlockingFiles(link.files, asyncio.get_running_loop())

        metadata = partial(verified_metadata, settings.store.dir)

        def make_trust(source: TrustSource) -> Trust:
            return Trust(settings.trust.root, settings.store.dir, source, settings.device, floor)

        self.trust: ports.Trust = make_trust(files) if relay is None else relay.trust(files, make_trust, metadata)
        self.chunks: ChunkSource = _over_http(settings, link.chunks) if relay is None else relay.chunks


def _over_http(settings: Settings, broker: ChunkSource) -> ChunkSource:
    if settings.fetch.http is None:
        return broker
    from edgeml_agent.fetch.http_source import ChunkServer, HttpChunks  # noqa: PLC0415 - few devices use it

    server = ChunkServer(url=settings.fetch.http, ca=settings.fetch.ca)
    return HttpChunks(server, broker, settings.update.max_bytes_per_s)


def _daemon(settings: Settings, store: Store, models: Models, sources: _Sources, restart: _Restart) -> Daemon:
    folder, clock, host, link = settings.store.dir, SystemClock(), board.this_machine(), sources.link
    releases, prober = Releases(folder, settings.store.max_bytes), ChildProber()

    def serving() -> dict[str, Manifest]:
        return {name: served.manifest for name, served in models.active().items()}

    reporter = Reporter(link, host, store, clock, serving=serving, drifts=models.watches.drifts)
    adapters = Ports(
        trust=sources.trust,
        chunks=sources.chunks,
        store=store,
        releases=releases,
        groups=GroupKeys(settings.trust.groups),
        prober=prober,
        server=models,
        clock=clock,
        calendar=DeviceCalendar(
            fetch=settings.update.fetch_window, activate=settings.update.window, floor=sources.floor
        ),
    )
    shadow_policy = settings.shadow if settings.serve.shadow else None
    agent = Agent(settings.device.id, host, adapters, reporter, shadow_policy=shadow_policy)
    calls = Calls(link, releases, prober, doctor=partial(_checks, settings), restart=restart.request)
    relay, tunes = None if sources.relay is None else sources.relay.run, settings.serve.tune
    return Daemon(agent, link, store, reporter, calls=calls, clock=clock, folder=folder, relay=relay, tunes=tunes)


def _checks(settings: Settings) -> tuple[Check, ...]:
    from edgeml_agent.commands import doctor  # noqa: PLC0415 - few agents are called

    return doctor.run(settings)

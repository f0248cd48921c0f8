"""`Fleet`: the devices of a repository, for Python callers and the command line: status, service, calls to one device.

The status is read from repository and registry, and needs no MQTT library. Serving and asking a device import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from edgeml.bundles import Bundle
from edgeml.fleet import status
from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts.outcomes import DeviceOutcome
from edgeml.fleet.rollouts.plan import Plan, Rollout
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.status import Chosen, DeviceStatus, FleetStatus
from edgeml.repository import Repository, broker_config, layout
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import broker as broker_urls
from edgeml_core import selectors
from edgeml_core.calls import LINES, SECONDS, Kind, Reply, Timing
from edgeml_core.errors import UsageError
from edgeml_core.messages import ModelState

if TYPE_CHECKING:
    from edgeml.bench import Benchmark
    from edgeml.fleet.call import DeviceConnection
    from edgeml.fleet.device_calls import DeviceCalls
    from edgeml.fleet.link import Broker
    from edgeml.fleet.recorder import Events
    from edgeml.fleet.web.administration import Administration
    from edgeml.fleet.web.server import HttpOptions
    from edgeml.fleet.webhook import Webhook
    from edgeml.verify import Verification

#: Where a running service reports its events: each as one sentence, or as an object with the method of `Events`.
EventSink: TypeAlias = "Events | Callable[[str], None]"


class Fleet:
    """The devices that are enrolled in a repository, and the broker that connects them.

    Args:
        repository: opened, or its folder.
        broker: `mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]`; only `status` and `devices` work without one.
        password_file: the file with the password of the URL's user.
        ca: PEM file of the broker's authority; None takes those of the system, or the repository's own.
        cert: PEM file with the certificate of this host; None takes one of the repository's own where the address is
            `mqtts`, and neither a user nor `ca` is given.
        key: PEM file with the key of `cert`.
        database: a file, or `postgresql://[USER@]HOST[:PORT]/NAME`; the default is `fleet.db` in the repository.
        database_password_file: the file with the password of the database's user.
        nodes: those of the broker's cluster, where it doesn't share retained messages: `serve` announces at each.

    Raises:
        UsageError: `repo-invalid`, when the folder has no repository; `usage`, when a URL is malformed.

    >>> Fleet("farms").status().devices
    1
    """

    def __init__(
        self,
        repository: Repository | Path | str,
        *,
        broker: str | None = None,
        password_file: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        database: Path | str | None = None,
        database_password_file: Path | None = None,
        nodes: Sequence[str] = (),
    ) -> None:
        self.repository = repository if isinstance(repository, Repository) else Repository.open(repository)
        self._broker = None if broker is None else broker_urls.parse(broker)
        self._nodes = tuple(broker_urls.parse(node) for node in nodes)
        self._files = {"password_file": password_file, "ca": ca, "cert": cert, "key": key}
        self._database = database or self.repository.path / DATABASE_FILE
        self._database_password_file = database_password_file

    @staticmethod
    def connect(
        broker: str,
        *,
        fleet: str = "edge",
        password_file: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> DeviceConnection:
        """Describe how the devices of a fleet are reached, where the repository isn't at hand. Connects to nothing yet.

        Args:
            broker: `mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]`.
            fleet: its name, as `Repository.init` was given.
            password_file: the file with the password of the URL's user.
            ca: PEM file of the broker's authority; None takes those of the system.
            cert: PEM file with the certificate of this host.
            key: PEM file with the key of `cert`.

        Returns:
            The value that `Bundle.verify` and `Bundle.bench` take as `fleet`.

        Raises:
            UsageError: `usage`, when the URL is malformed.
        """
        from edgeml.fleet.call import DeviceConnection  # noqa: PLC0415 - imports MQTT
        from edgeml.fleet.link import Broker  # noqa: PLC0415 - as above

        url = broker_urls.parse(broker)
        address = Broker(url=url, password_file=password_file, ca=ca, cert=cert, key=key)
        return DeviceConnection(broker=address, fleet=fleet)

    @property
    def connection(self) -> DeviceConnection:
        """How the devices are reached, as `Bundle.verify` and `Bundle.bench` take it.

        Raises:
            UsageError: `usage`, when the fleet was opened without a broker.
        """
        from edgeml.fleet import own_certificate  # noqa: PLC0415 - imports MQTT
        from edgeml.fleet.call import DeviceConnection  # noqa: PLC0415 - as above

        address = self._address()
        if own_certificate.is_needed(address):
            # Not as the host: a second connection under its name would end the running one's.
            name = broker_config.OPERATOR_NAME
            address = own_certificate.broker(self.repository.path, address.url, name)
        return DeviceConnection(broker=address, fleet=self.repository.fleet_name)

    def status(self) -> FleetStatus:
        """Count how far each deployment is, with every failure.

        Raises:
            UsageError: `repo-invalid`. DeviceError: `store-failed`, when the registry can't be read.
        """
        with closing(self._registry()) as registry:
            return status.status(self.repository.path, registry)

    def devices(
        self, *, state: str = "", labels: Mapping[str, str] | None = None, after: str = "", limit: int | None = None
    ) -> list[DeviceStatus]:
        """List the enrolled devices with the last state of each, by id.

        Args:
            state: only devices with a deployment in that state; or `failed`, `online`, `offline`, `well` or `unwell`.
            labels: only devices that have these.
            after: only devices whose ids come after it: the last one of the page before.
            limit: the number of devices; None sets no bound.

        Raises:
            UsageError: `repo-invalid`. DeviceError: `store-failed`, when the registry can't be read.

        >>> [(device.id, device.labels, device.online) for device in Fleet("farms").devices()]
        [('barn-1', {'site': 'farm-7'}, False)]
        """
        with closing(self._registry()) as registry:
            chosen = Chosen(state=state, labels=labels or {})
            return status.devices(self.repository.path, registry, chosen=chosen, after=after, limit=limit)

    def roll_out(
        self,
        name: str,
        version: str | None = None,
        *,
        plan: Plan,
        to: str = selectors.EVERYONE,
        allow_empty: bool = False,
    ) -> Rollout:
        """Deploy a release in waves, each of which has to end well. A running `serve` goes on with them.

        Args:
            name: of the model.
            version: None takes the version that was published last and isn't withdrawn.
            plan: the waves, and the conditions to go on.
            to: selects devices by labels and ids; by default all.
            allow_empty: permit a selector that matches no enrolled device.

        Raises:
            UsageError: `usage`, for a bad plan or selector, or beside another rollout of the model;
                `release-unknown`; `release-withdrawn`; `repo-invalid`. DeviceError: `store-failed`.
        """
        with self._steering() as steering:
            return steering.begin(name, version, selector=to, plan_=plan, allow_empty=allow_empty, now=layout.utc_now())

    def rollouts(self) -> list[Rollout]:
        """List the rollouts, the newest first.

        Raises:
            DeviceError: `store-failed`.

        >>> Fleet("farms").rollouts()
        []
        """
        with self._steering() as steering:
            return steering.rollouts.all()

    def rollout(self, name: str) -> tuple[Rollout, list[DeviceOutcome]]:
        """Return one rollout, by its id or model, and its outcome so far on each device in the order of the waves.

        Raises:
            UsageError: `usage`, when there is none. DeviceError: `store-failed`.
        """
        with self._steering() as steering:
            found = steering.rollouts.find(name)
            return found, steering.reached(found)

    def steer(self, name: str, act: str, *, wave: int | None = None) -> Rollout:
        """Pause, resume, approve, abort or roll back a rollout, and return it.

        Args:
            name: its id, or its model for the newest one.
            act: `pause`, `resume`, `approve`, `abort` or `rollback`.
            wave: refuses the act where another wave is the next one, counted from 1.

        Raises:
            UsageError: `usage`, when there is no such rollout, its phase doesn't permit the act, or its next wave is
                another.
            DeviceError: `store-failed`.
        """
        with self._steering() as steering:
            return steering.act(name, act, now=layout.utc_now(), wave=wave)

    def serve(
        self,
        events: EventSink | None = None,
        *,
        max_bytes_per_s: int | None = None,
        with_broker: str | None = None,
        enroll: str | None = None,
        webhook: Webhook | None = None,
        http: HttpOptions | None = None,
    ) -> None:
        """Announce the repository, send chunks and record reports, until SIGTERM. Blocks; for the main thread.

        Args:
            events: is called with each event, such as a new connection.
            max_bytes_per_s: limit for the chunks to all devices together.
            with_broker: `NAME[:PORT]` as devices reach this machine: runs Mosquitto there, for a fleet opened without a
                broker. Its clients have certificates of the repository.
            enroll: `NAME[:PORT]` where devices enroll with a token; None is NAME:8443 of `with_broker`, or nowhere.
            webhook: gets notices; made by `edgeml.fleet.webhook.parse`.
            http: where the dashboard listens; None serves none.

        Raises:
            UsageError: `repo-invalid`, also when the fleet key is locked; `usage`, without a broker or with two, or for
                an address of the dashboard that can't be used;
                `extra-missing`, without Mosquitto.
            TransportError: `broker-unreachable`, when the first connection fails.
        """
        from edgeml.fleet import own_broker  # noqa: PLC0415 - imports MQTT

        own_broker.run(
            self.serve_async(
                events,
                max_bytes_per_s=max_bytes_per_s,
                with_broker=with_broker,
                enroll=enroll,
                webhook=webhook,
                http=http,
            )
        )

    async def serve_async(
        self,
        events: EventSink | None = None,
        *,
        max_bytes_per_s: int | None = None,
        with_broker: str | None = None,
        enroll: str | None = None,
        webhook: Webhook | None = None,
        http: HttpOptions | None = None,
    ) -> NoReturn:
        """Serve as `serve` does, in the running event loop, until the task is cancelled."""
        from edgeml.fleet import enrollment, own_broker  # noqa: PLC0415 - imports MQTT

        if with_broker is not None and (self._broker is not None or self._nodes):
            message = "the fleet has a broker, and shall run one of its own"
            raise UsageError("usage", message, "give --broker or --with-broker")
        dashboard = None
        if http is not None:
            from edgeml.fleet.web.server import Dashboard  # noqa: PLC0415 - imports uvicorn and starlette

            dashboard = Dashboard(http)
        await own_broker.serve(
            self.repository.path,
            _events(events),
            broker=self._address() if with_broker is None else None,
            own=None if with_broker is None else own_broker.parse(with_broker, broker_config.DEFAULT_PORT),
            enroll=None if enroll is None else own_broker.parse(enroll, enrollment.DEFAULT_PORT),
            registry=self._registry(),
            max_bytes_per_s=max_bytes_per_s,
            webhook=webhook,
            dashboard=dashboard,
        )

    @contextmanager
    def administration(self) -> Iterator[Administration]:
        """Lend the accounts of the dashboard.

        Raises:
            DeviceError: `store-failed`.
        """
        from edgeml.fleet.web.accounts import Accounts  # noqa: PLC0415 - imports argon2
        from edgeml.fleet.web.administration import Administration  # noqa: PLC0415 - as above

        with closing(self._registry()) as registry:
            yield Administration(layout.opened(self.repository.path), Accounts(registry.database))

    def verify(self, device: str, bundle: Bundle) -> Verification:
        """Ask a device to reproduce the golden outputs of a bundle that it holds.

        Raises:
            UsageError: `device-unknown`. TransportError: `broker-unreachable`, `device-offline` or `call-timeout`.
            DeviceError: `release-absent`, `device-busy`, `golden-mismatch`, or the runtime there failed.
        """
        return bundle.verify(f"device:{device}", fleet=self.connection)

    def bench(
        self, device: str, bundle: Bundle, *, case: int = 1, threads: int | None = None, seconds: float = SECONDS
    ) -> Benchmark:
        """Ask a device to measure a bundle that it holds. Arguments and errors are those of `Bundle.bench`."""
        return bundle.bench(f"device:{device}", case=case, threads=threads, seconds=seconds, fleet=self.connection)

    def call(self, device: str, kind: Kind, *, model: str | None = None, seconds: float = SECONDS) -> Reply:
        """Call a device to restart its agent, check itself, or run a bundle of its own; the audit log has the call.

        Args:
            device: its id.
            kind: `restart`, `doctor`, `verify` or `bench`.
            model: for `verify` and `bench`; None is the only model of the device.
            seconds: of a benchmark, after the warm-up.

        Raises:
            UsageError: `device-unknown`; `usage`, also without a broker. TransportError: as of `verify`.
            DeviceError: any error that the device replies, such as `device-busy`.
        """
        return self._calls().ask(device, kind, model=model, timing=Timing(seconds=seconds))

    def logs(self, device: str, *, lines: int = LINES) -> list[str]:
        """Return the newest lines of a device's log, without secrets; the audit log has the call.

        Raises:
            UsageError: `device-unknown`; `usage`, also without a broker. TransportError: as of `verify`.
        """
        return list(self._calls().ask(device, "logs", lines=lines).log)

    def _calls(self) -> DeviceCalls:
        from edgeml.fleet import device_calls  # noqa: PLC0415 - imports MQTT

        folder = layout.opened(self.repository.path)

        def models(device: str) -> dict[str, ModelState] | None:
            with closing(self._registry()) as registry:
                return device_calls.reported_models(folder, registry, device)

        return device_calls.DeviceCalls(folder, models, lambda: self.connection)

    @contextmanager
    def _steering(self) -> Iterator[Steering]:
        with closing(self._registry()) as registry:
            yield Steering(layout.opened(self.repository.path), registry)

    def _registry(self) -> Registry:
        return Registry(self._database, password_file=self._database_password_file)

    def _address(self) -> Broker:
        from edgeml.fleet.link import Broker  # noqa: PLC0415 - imports MQTT

        if self._broker is None:
            raise UsageError("usage", "the fleet was opened without a broker", "give broker='mqtts://HOST'")
        return Broker(url=self._broker, nodes=self._nodes, **self._files)


def _events(events: EventSink | None) -> Events:
    return events if events is not None and hasattr(events, "event") else _Sentences(events)


class _Sentences:
    """Events of a service as sentences for a function; for nobody where there is none."""

    def __init__(self, report: Callable[[str], None] | None) -> None:
        self._report = report

    def event(self, name: str, text: str, **fields: object) -> None:  # noqa: ARG002 - the text has them
        """Report one event."""
        if self._report is not None:
            self._report(text)

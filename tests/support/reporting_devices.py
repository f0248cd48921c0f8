"""Many devices as one client of a broker: they follow the announced fleet documents, and report without installing.

Each decides by the core's rules what it should run, and ends an update a moment later: well, or rolled back for the
versions that are bad. So the host, the broker and the protocol are real, and only the agents' work is left out.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType

import paho.mqtt.client as paho

from edgeml_core import desired, messages
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.errors import RejectedError
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report, Topics
from support import paho_clients
from support.waiting import TIMEOUT_S

#: Seconds for an update.
UPDATE_S = 0.2


class ReportingDevices:
    """Devices without labels.

    Args:
        bad: versions that every device rolls back.
        silent: devices that are off.
    """

    def __init__(
        self, port: int, fleet: str, names: Iterable[str], *, bad: Iterable[str] = (), silent: Iterable[str] = ()
    ) -> None:
        self.names = sorted(names)
        self.bad = set(bad)
        #: The version that serves on each device, and all that each one ever began.
        self.serving: dict[str, str] = {}
        self.began: dict[str, set[str]] = {name: set() for name in self.names}
        #: The shares that were announced for the rollouts of each version, in order.
        self.shares: defaultdict[str, list[float]] = defaultdict(list)
        self._silent = set(silent)
        self._ids: dict[str, str] = {}
        self._topics = Topics(fleet)
        self._document: FleetDocument | None = None
        self._news = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda *_: self._client.subscribe(self._topics.trust("fleet", "targets/#"), qos=1)
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> ReportingDevices:
        """Begin to follow."""
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave."""
        self._ends.set()
        self._news.set()
        self._thread.join(TIMEOUT_S)
        paho_clients.leave(self._client)

    def reached(self, version: str) -> set[str]:
        """The devices that ever began a version."""
        return {name for name, versions in self.began.items() if version in versions}

    def wants(self, version: str) -> bool:
        """Whether the newest announced document names a version."""
        return self._document is None or any(it.version == version for it in self._document.deployments)

    def all_serve(self, version: str) -> bool:
        """Whether every device that is on serves a version."""
        return {self.serving.get(name) for name in self.names if name not in self._silent} == {version}

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        with contextlib.suppress(RejectedError):
            self._document = desired.decode(message.payload)
            self._news.set()

    def _work(self) -> None:
        while not self._ends.is_set():
            self._news.wait()
            self._news.clear()
            document = self._document
            if document is None:
                continue
            for it in document.deployments:
                if it.in_waves:
                    self.shares[it.version].append(it.percent)
            begun = [(name, it) for name in self.names if (it := self._begin(document, name))]
            self._ends.wait(UPDATE_S if begun else 0)
            for name, deployment in begun:
                self._end(name, deployment)

    def _begin(self, document: FleetDocument, name: str) -> Deployment | None:
        if name in self._silent:
            return None
        for deployment in desired.wanted_by(document, name, {}).values():
            if self._ids.get(name) != deployment.id:
                self._ids[name] = deployment.id
                self.began[name].add(deployment.version)
                self._report(name, deployment, State.FETCHING)
                return deployment
        return None

    def _end(self, name: str, deployment: Deployment) -> None:
        is_bad = deployment.version in self.bad
        state = State.ROLLED_BACK if is_bad else State.ACTIVE
        if not is_bad:
            self.serving[name] = deployment.version
        self._report(name, deployment, state, code="golden-mismatch" if is_bad else "")
        model = ModelState(version=self.serving.get(name, ""), state=state)
        shown = DeviceState(online=True, session=1, models={deployment.name: model})
        self._client.publish(self._topics.state(name), messages.encode(shown), qos=1, retain=True)

    def _report(self, name: str, deployment: Deployment, state: State, *, code: str = "") -> None:
        report = Report(
            deployment=deployment.id,
            name=deployment.name,
            version=deployment.version,
            state=state,
            session=1,
            code=code,
        )
        self._client.publish(self._topics.report(name), messages.encode(report), qos=1)

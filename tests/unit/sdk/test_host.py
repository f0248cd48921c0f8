"""The host and the messages of devices that its last look at the repository didn't find."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.fleet import serve
from edgeml.fleet.leadership import Election
from edgeml.fleet.registry import Registry
from edgeml.fleet.serve import HELD_MESSAGES_MAX, UNKNOWN_DEVICES_MAX, Host
from edgeml.fleet.snapshot import read
from edgeml_core import messages
from edgeml_core.messages import DeviceState, Report, Topics
from edgeml_io.mqtt import Message
from support import deployed_repository
from support.waiting import until_async

pytestmark = pytest.mark.anyio
TOPICS = Topics("farm")
STATE = messages.encode(DeviceState(online=True, session=1))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one deployment, and no device."""
    return deployed_repository.make(tmp_path, ())


class Silent:
    """Events of nobody, an announcer of nothing, and a connection that notes the topics of subscriptions."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []

    def event(self, name: str, text: str, **fields: object) -> None:
        """See `Events`."""

    async def announce(self, _: object) -> tuple[()]:
        """See `Announcer.announce`."""
        return ()

    async def repair(self) -> int:
        """See `Announcer.repair`."""
        return 0

    async def subscribe(self, subscriptions: Sequence[tuple[str, int]]) -> None:
        """See `Connection.subscribe`."""
        self.subscribed += [topic for topic, _ in subscriptions]

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """See `Connection.unsubscribe`."""
        self.unsubscribed += topics


async def test_messages_of_a_device_that_was_just_enrolled_are_recorded(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports before the host reads the repository again. Those of strangers are forgotten then."""
    monkeypatch.setattr(serve, "WATCH_EVERY_S", 0.01)
    folder, registry, silent = repository.opened(repo), Registry(repo / "fleet.db"), Silent()
    election = Election(registry.database)
    await election.turn()
    host = Host(folder, registry, election, read(folder), silent, rules=None)
    monkeypatch.setattr(host, "_await_rights", lambda _: asyncio.sleep(0))
    (deployment,) = folder.document().deployments
    for device in ("late-1", *(f"stranger-{number}" for number in range(UNKNOWN_DEVICES_MAX))):
        host._on_message(Message(topic=TOPICS.state(device), payload=STATE), None)
        for number in range(HELD_MESSAGES_MAX + 1):
            report = Report(deployment=deployment.id, name="sample", version="1", state="fetching", session=number)
            host._on_message(Message(topic=TOPICS.report(device), payload=messages.encode(report)), None)
    assert (len(host._held), host.recorder._messages) == (UNKNOWN_DEVICES_MAX, 0)
    repository.enroll(repo, "late-1", labels={}, broker_url=None, out_dir=tmp_path / "late-1")
    tasks = [asyncio.create_task(it) for it in (host.recorder.run(), host._watch(silent, silent, asyncio.Event()))]
    await until_async(lambda: registry.reports(deployment.id))
    assert registry.reports(deployment.id)["late-1"].session == HELD_MESSAGES_MAX
    # Its state was displaced by the reports, and is requested from the broker.
    await until_async(lambda: silent.unsubscribed)
    assert silent.subscribed == silent.unsubscribed == [TOPICS.state("late-1")]
    await until_async(lambda: not host._held)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    registry.close()

"""The dashboard on a port of its own, in a thread, over a small fleet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeml import repository
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml.fleet.web.accounts import Role
from edgeml.fleet.web.server import Dashboard, HttpOptions
from edgeml_core import broker as broker_urls
from support import dashboard_fleet

#: A broker that isn't there.
NO_BROKER = Broker(url=broker_urls.parse("mqtt://127.0.0.1:1"))


@dataclass(frozen=True)
class DashboardSite:
    """A running dashboard: its address, the fleet behind it, and a token of each role."""

    url: str
    repo: Path
    registry: Registry
    tokens: dict[Role, str]


class Journal:
    """Takes the service's events."""

    def event(self, name: str, text: str, **fields: object) -> None:
        """Leave an event out."""


@contextmanager
def running(repo: Path, devices: int = 4, broker: Broker = NO_BROKER) -> Iterator[DashboardSite]:
    """Make a fleet in a new folder, and serve its dashboard."""
    dashboard_fleet.make(repo, devices)
    with dashboard_fleet.registry_of(repo) as registry:
        tokens = dashboard_fleet.add_accounts(repo, registry)
        dashboard, loop = Dashboard(HttpOptions(address="127.0.0.1:0")), asyncio.new_event_loop()
        task = loop.create_task(dashboard.run(repository.opened(repo), registry, Journal(), broker))
        thread = threading.Thread(target=_run, args=(loop, task))
        thread.start()
        try:
            yield DashboardSite(dashboard.url, repo, registry, tokens)
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()

"""Where attacks are played: a device behind a man in the middle, its owner who goes on publishing, and who hears what.

The attacker has the broker: all that comes to the device goes through `Stage.mitm`. Of the owner's keys he has none but
what an attack gives him; of what was ever signed he has everything, since it was public.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeml_core import messages
from edgeml_core.messages import Report, Topics
from edgeml_core.trust import REPOSITORIES
from faults.mitm import Mitm, honest, published
from faults.world import FLEET, World, until, world
from support.delivery_site import Observer

#: Topics of this world.
TOPICS: Final = Topics(FLEET)
ROLES: Final = ("timestamp", "snapshot", "targets")
SETTLE_S: Final = 1.0
#: How soon an attack must be refused.
REFUSED_S: Final = 40.0
#: Two chunks of weights, so that there is something to fetch.
WEIGHTS_BYTES: Final = 100_000


@dataclass
class Stage:
    """One world under attack."""

    made: World
    mitm: Mitm
    observer: Observer
    #: What was signed for version 1.0, by repository and role.
    kept: dict[str, bytes]
    _planted: list[str] = field(default_factory=list)

    def release(self) -> str:
        """The owner publishes another version, and what the attacker does meets it on its way."""
        return self.made.release(weights_bytes=WEIGHTS_BYTES)

    def plant(self, files: dict[str, bytes]) -> None:
        """Send the device files that the owner doesn't have."""
        self._planted += files
        self._send(files)

    def refused(self, code: str, since: int) -> Report:
        """The device has said, in a report and in its log, that it refused something with this code."""
        found: list[Report] = []

        def said() -> bool:
            found[:] = [report for report in self.reports(since) if report.code == code]
            return bool(found)

        until(said, f"a report with {code}, after {[it.code for it in self.reports(since)]}", REFUSED_S)
        until(lambda: f'code="{code}"' in self.made.device.log.read_text(), f"a line of the log with {code}")
        return found[0]

    def reports(self, since: int) -> list[Report]:
        """What the device has reported since so many messages were heard."""
        topic = TOPICS.report(self.made.device.name)
        heard = self.observer.heard[since:]
        return [messages.decode(payload, Report) for at, payload in heard if at == topic]

    def ends(self, version: str) -> None:
        """The attack is over, and the owner signs his wish anew: it must arrive, though nobody helps the device."""
        self.mitm.meddle = honest
        self.made.deploy(version)
        # What was meddled with before is on its way for a moment more.
        time.sleep(SETTLE_S)
        self._send(dict.fromkeys(self._planted, b"") | signed_files(self.made.repo))
        self._planted.clear()
        self.made.converges(version)

    def _send(self, files: dict[str, bytes]) -> None:
        self.mitm.inject(*(published(topic, payload) for topic, payload in files.items()))


def signed_files(repo: Path) -> dict[str, bytes]:
    """All files of both TUF repositories, by topic; metadata after what it names, timestamps last."""
    files = {
        TOPICS.trust(name, path.relative_to(repo / name).as_posix()): path.read_bytes()
        for name in REPOSITORIES
        for path in sorted((repo / name).rglob("*.json"))
    }
    return dict(sorted(files.items(), key=lambda item: ("metadata" in item[0], "timestamp" in item[0])))


def newest(repo: Path, name: str, role: str) -> bytes:
    """The newest metadata of a role in a repository."""
    files = [path.read_bytes() for path in (repo / name / "metadata").glob(f"*{role}.json")]
    return max(files, key=lambda data: int(json.loads(data)["signed"]["version"]))


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A device that serves version 2.0, and an attacker who remembers 1.0 and does nothing yet."""
    with world(folder, through_mitm=True) as made:
        observer = Observer(made.broker.port)
        try:
            assert made.road is not None
            roles = [(repo, role) for repo in REPOSITORIES for role in ROLES]
            kept = {f"{repo}/{role}": newest(made.repo, repo, role) for repo, role in roles}
            made.deploy(second := made.release())
            made.converges(second)
            yield Stage(made, made.road, observer, kept)
        finally:
            observer.close()

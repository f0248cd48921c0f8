"""A fleet under attack: a device behind a man in the middle, an owner who keeps publishing, and an observer.

The attacker owns the broker: all frames to the device pass `AttackedFleet.mitm`. The attacker has all files that were
ever signed, since they were public, and only those of the owner's keys that an attack names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeml.repository import opened
from edgeml_core import messages
from edgeml_core.messages import Report, Topics
from edgeml_core.trust import NEWEST_ROOT_FILE, REPOSITORIES
from faults.fleet import FLEET, Fleet, fleet, until
from faults.mitm import Mitm, honest, published
from support.delivery_site import Observer

#: Topics of this fleet.
TOPICS: Final = Topics(FLEET)
ROLES: Final = ("timestamp", "snapshot", "targets")
SETTLE_S: Final = 1.0
#: Two chunks of weights, so that there is something to fetch.
WEIGHTS_BYTES: Final = 100_000


@dataclass
class AttackedFleet:
    """One fleet under attack."""

    made: Fleet
    mitm: Mitm
    observer: Observer
    #: The metadata signed for version 1.0, by repository and role.
    kept: dict[str, bytes]
    _planted: list[str] = field(default_factory=list)

    def release(self) -> str:
        """Publish another version as the owner."""
        return self.made.release(weights_bytes=WEIGHTS_BYTES)

    def plant(self, files: dict[str, bytes]) -> None:
        """Send the device files that the owner never signed."""
        self._planted += files
        self._send(files)

    def refused(self, code: str, since: int) -> Report:
        """Wait until the device has reported and logged a refusal with this code; return the report."""
        found: list[Report] = []

        def has_reported() -> bool:
            found[:] = [report for report in self.reports(since) if report.code == code]
            return bool(found)

        until(has_reported, f"a report with {code}, after {[it.code for it in self.reports(since)]}")
        until(lambda: f'code="{code}"' in self.made.device.log.read_text(), f"a line of the log with {code}")
        return found[0]

    def reports(self, since: int) -> list[Report]:
        """Return the device's reports after the first `since` messages."""
        topic = TOPICS.report(self.made.device.name)
        heard = self.observer.heard[since:]
        return [messages.decode(payload, Report) for at, payload in heard if at == topic]

    def ends(self, version: str) -> None:
        """End the attack and deploy again: the update must arrive without help for the device."""
        self.mitm.meddle = honest
        self.made.deploy(version)
        # Frames that were changed before are on their way for a moment more.
        time.sleep(SETTLE_S)
        self._send(dict.fromkeys(self._planted, b"") | signed_files(self.made.repo))
        self._planted.clear()
        self.made.converges(version)

    def _send(self, files: dict[str, bytes]) -> None:
        self.mitm.inject(*(published(topic, payload) for topic, payload in files.items()))


def signed_files(repo: Path) -> dict[str, bytes]:
    """Return all signed files by topic: records, metadata after the files that it names, timestamps last."""
    kept = opened(repo).records
    files = {
        TOPICS.trust(name, path.relative_to(repo / name).as_posix()): path.read_bytes()
        for name in REPOSITORIES
        for path in sorted((repo / name).rglob("*.json"))
    } | {TOPICS.trust(name, NEWEST_ROOT_FILE): newest(repo, name, "root") for name in REPOSITORIES}
    files |= {TOPICS.record(device): line for device, line in kept.encoded(kept.all()).items()}
    return dict(sorted(files.items(), key=lambda item: ("metadata" in item[0], "timestamp" in item[0])))


def newest(repo: Path, name: str, role: str) -> bytes:
    """Return the newest metadata of a role in a repository."""
    files = [path.read_bytes() for path in (repo / name / "metadata").glob(f"*{role}.json")]
    return max(files, key=lambda data: int(json.loads(data)["signed"]["version"]))


@contextmanager
def attacked_fleet(folder: Path) -> Iterator[AttackedFleet]:
    """Start a device that serves version 2.0, and an attacker who has the metadata of 1.0 and does nothing yet."""
    with fleet(folder, through_mitm=True) as made:
        observer = Observer(made.broker.port)
        try:
            assert made.mitm is not None
            roles = [(repo, role) for repo in REPOSITORIES for role in ROLES]
            kept = {f"{repo}/{role}": newest(made.repo, repo, role) for repo, role in roles}
            made.deploy(second := made.release())
            made.converges(second)
            yield AttackedFleet(made, made.mitm, observer, kept)
        finally:
            observer.close()

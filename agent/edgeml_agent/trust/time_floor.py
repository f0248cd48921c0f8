"""The time floor: time is never before the newest signed time that this device has seen.

Boards without a clock start in 1970. Only signatures raise the floor, so a clock that was wrong for a while does no
lasting harm. A floor counts only while the key that signed it is trusted: an attacker's far future ends with its key.
Nothing is stored here, since python-tuf keeps the signed files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Timestamp

from edgeml_agent.trust.tuf_client import CURRENT
from edgeml_core import trust

FOLDER_NAME: Final = "trusted"


def utc_now() -> datetime:
    """Return the system clock's time."""
    return datetime.now(UTC)


class TimeFloor:
    """A clock that is never before the newest trusted signature.

    Args:
        anchors: the folder with `releases.root.json` and `fleet.root.json`.
        state: the store's folder.
    """

    def __init__(self, anchors: Path, state: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self._anchors = anchors
        self._held = state / FOLDER_NAME
        self._clock = clock

    def now(self) -> datetime:
        """Return the later of the clock's time and the floor."""
        return max(self._clock(), self.floor())

    def late_floor(self) -> datetime | None:
        """Return the floor if the clock is before it, so certainly wrong; else None."""
        floor = self.floor()
        return floor if self._clock() < floor else None

    def floor(self) -> datetime:
        """Return the newest signed time that this device has seen."""
        return max((time for repo in trust.REPOSITORIES for time in self._signed_times(repo)), default=trust.NO_TIME)

    def _signed_times(self, repo: str) -> Iterator[datetime]:
        held = self._held / repo / CURRENT
        try:
            yield trust.issued(Metadata[Root].from_bytes((self._anchors / f"{repo}.root.json").read_bytes()).signed)
            root = Metadata[Root].from_bytes((held / "root.json").read_bytes())
            timestamp = Metadata[Timestamp].from_bytes((held / "timestamp.json").read_bytes())
            root.verify_delegate(Timestamp.type, timestamp)
            yield trust.issued(timestamp.signed)
        except (RepositoryError, OSError):
            # The files are absent, or their key was replaced: no time follows from them.
            return

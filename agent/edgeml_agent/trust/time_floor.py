"""The time, never before the newest signed one that this device has seen: boards without a clock wake up in 1970.

Only signatures raise the floor, so a clock that was wrong for a while, early or late, does no lasting harm. Whoever
could sign a far future loses that power, and its effect, when the key is replaced: a floor counts only while the key
that signed it is trusted. Nothing is stored here; what python-tuf keeps suffices.
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
    """The machine's clock."""
    return datetime.now(UTC)


class TimeFloor:
    """The clock of one device, held up by what it trusts.

    Args:
        anchors: the folder with `releases.root.json` and `fleet.root.json`.
        state: the store's folder.
    """

    def __init__(self, anchors: Path, state: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self._anchors = anchors
        self._held = state / FOLDER_NAME
        self._clock = clock

    def now(self) -> datetime:
        """The clock's time or the floor, whichever is later."""
        return max(self._clock(), self.floor())

    def is_late(self) -> bool:
        """Whether the clock tells a time that is over for certain."""
        return self._clock() < self.floor()

    def floor(self) -> datetime:
        """The newest signed time that this device has seen."""
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
            # Not there yet, or of a key that was replaced: no time can be had from it.
            return

"""The record of this device: its signed labels, of the newest version that it has seen.

A record comes from the broker or from a stick, and the first one lies in the folder that `edgeml device enroll` wrote.
The newest one is kept in the store, synced before the device acts on it, so an older one is refused. A kept record
counts while the keys that have signed it are trusted: what a thief has signed ends with the stolen key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root

from edgeml_agent.ports import TrustSource
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.time_floor import FOLDER_NAME
from edgeml_core import records
from edgeml_core.errors import DeviceError, RejectedError, TransportError
from edgeml_core.records import DeviceRecord
from edgeml_io import files


class OwnRecord:
    """The newest record of one device.

    Args:
        anchors: the folder with the trust anchors, and the record of the time when the device was enrolled.
        state: the store's folder.
        source: where newer records come from.
        device: the device's id and fleet.
        now: returns the time by which records expire.
    """

    def __init__(
        self,
        anchors: Path,
        state: Path,
        source: TrustSource,
        device: DeviceSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._first = anchors / records.RECORD_FILE
        self._kept = state / FOLDER_NAME / records.RECORD_FILE
        self._source = source
        self._device = device
        self._now = now

    def newest(self, root: Root) -> DeviceRecord:
        """Return the newest record, and keep it; it neither revokes the device nor has expired.

        Args:
            root: of the fleet repository; it names the keys.

        Raises:
            RejectedError: `record-missing`; `rollback-attempt`, for one that is older than the newest seen;
                `signature-invalid`, also for one of another device; `device-revoked`; `trust-expired`;
                `document-format`.
            TransportError: `trust-unavailable`, when the keys have changed and the new signature isn't here yet.
            DeviceError: `store-failed`.
        """
        record = self._newest(root)
        records.check_usable(record, self._now())
        return record

    def _newest(self, root: Root) -> DeviceRecord:
        kept_line, first_line = self._read(self._kept), self._read(self._first)
        kept, first = self._trusted(kept_line, root), self._trusted(first_line, root)
        known = max((it for it in (kept, first) if it), key=lambda it: it.version, default=None)
        offered_line = self._source.record(self._device.id)
        if kept is None and kept_line and offered_line in (None, kept_line):
            hint = "start `edgeml fleet serve`, which announces the record with the new signature"
            message = f"the record of {self._device.id} isn't signed by the new keys yet"
            raise TransportError("trust-unavailable", message, hint)
        if offered_line is None:
            return known or self._verified(first_line, root)
        offered = self._verified(offered_line, root)
        if known is not None and (
            offered.version < known.version or (offered.version == known.version and offered != known)
        ):
            message = (
                f"record {offered.version} of {offered.device} was offered, other than record {known.version} here"
            )
            hint = "if the repository was restored from a backup, relabel this device until its record is newer"
            raise RejectedError("rollback-attempt", message, hint)
        if offered_line != kept_line:
            self._keep(offered_line)
        return offered

    def _trusted(self, line: bytes, root: Root) -> DeviceRecord | None:
        try:
            return self._verified(line, root)
        except RejectedError:
            return None

    def _verified(self, line: bytes, root: Root) -> DeviceRecord:
        if not line:
            hint = "start `edgeml fleet serve`, and check that the device is enrolled: `edgeml device list`"
            raise RejectedError("record-missing", f"there is no record of device {self._device.id}", hint)
        return records.verified(line, root, fleet=self._device.fleet, device=self._device.id)

    def _read(self, path: Path) -> bytes:
        """Read a record here; nothing if there is none."""
        try:
            with path.open("rb") as file:
                return file.read(records.RECORD_MAX_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            hint = "check that the agent's user may read it"
            raise DeviceError("store-failed", f"the record {path} can't be read: {error}", hint) from error

    def _keep(self, line: bytes) -> None:
        try:
            files.write(self._kept, line)
        except OSError as error:
            hint = "check that [store] dir is writable"
            raise DeviceError("store-failed", f"can't store this device's record: {error}", hint) from error

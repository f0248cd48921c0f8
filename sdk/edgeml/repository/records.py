"""The signed records of all devices, in the repository's folder: labels, groups, versions and revocations.

    REPO/devices/ab.jsonl    one record a line, of the devices whose ids' SHA-256 begins with ab

Each file is replaced as a whole, so readers need no lock. A file that hasn't changed isn't read again. Signatures are
made here, and verified by devices: to verify those of 100,000 devices takes 15 s, which no command should wait for.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import Targets

from edgeml.repository.keys import FLEET_KEY
from edgeml.repository.signed import SignedRepository
from edgeml_core import chunks, desired, records
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.records import DeviceRecord, KeySignature, SignedRecord
from edgeml_io import files

#: Hexadecimal digits of a record's digest: enough to see whether it has changed.
_DIGEST_DIGITS: Final = 16


def digest(line: bytes) -> str:
    """Return what tells a record's encoding from others."""
    return chunks.sha256(line)[:_DIGEST_DIGITS]


class Known(msgspec.Struct, frozen=True):
    """A device's record as the folder has it, and the digest of its encoding."""

    record: DeviceRecord
    digest: str

    @property
    def site(self) -> str:
        """The device's site; empty if it has none."""
        return self.record.labels.get(desired.SITE_LABEL, "")


#: The time and the identity of a file, by its name.
Stamp = dict[str, tuple[int, int]]


class Records:
    """The records in one folder, signed by the keys of the fleet repository's targets."""

    def __init__(self, folder: Path, signed: SignedRepository) -> None:
        self._folder = folder
        self._signed = signed
        self._lifetime = signed.lifetimes[Targets.type]
        #: Held while files are read: several threads of a host look.
        self._lock = threading.Lock()
        self._read: dict[str, dict[str, Known]] = {}
        self._stamp: Stamp = {}

    def stamp(self) -> Stamp:
        """Return what differs after every change of a record."""
        if not self._folder.is_dir():
            return {}
        found = {path.name: path.stat() for path in self._folder.glob("*.jsonl")}
        return {name: (status.st_mtime_ns, status.st_ino) for name, status in sorted(found.items())}

    def all(self) -> dict[str, Known]:
        """Return every device, by id and in the order of ids, also revoked ones. Unchanged files aren't read again.

        Raises:
            UsageError: `repo-invalid`, when a file is damaged.
        """
        with self._lock:
            stamp = self.stamp()
            labels: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
            for name in stamp.keys() | self._stamp.keys():
                if stamp.get(name) != self._stamp.get(name):
                    self._read[name] = {it.record.device: it for it in self._known(name, labels)}
            self._stamp = stamp
            return dict(sorted(item for of_file in self._read.values() for item in of_file.items()))

    def enrolled(self) -> dict[str, dict[str, str]]:
        """Return the labels of every device that isn't revoked, by id."""
        return {device: it.record.labels for device, it in self.all().items() if not it.record.revoked}

    def find(self, device: str) -> DeviceRecord | None:
        """Read the record of one device; None if it was never enrolled."""
        lines = self.encoded([device])
        return records.decode(lines[device]).signed if device in lines else None

    def encoded(self, devices: Iterable[str]) -> dict[str, bytes]:
        """Read the records of these devices as they are sent; one that was never enrolled has none.

        Raises:
            UsageError: `repo-invalid`, when a file is damaged.
        """
        by_file: defaultdict[str, set[str]] = defaultdict(set)
        for device in devices:
            by_file[records.file_of(device)].add(device)
        return {
            device: records.encode(record)
            for name, wanted in by_file.items()
            for device, record in self._decoded(name).items()
            if device in wanted
        }

    def expiry(self, now: datetime) -> datetime:
        """Return until when a record that is signed now counts: as long as deployments do."""
        return now.replace(microsecond=0) + self._lifetime

    def is_due(self, now: datetime) -> bool:
        """Return whether a record has less than half of its time left."""
        return any(self._is_due(it.record, now) for it in self.all().values())

    def renew(self, now: datetime) -> None:
        """Sign the records again that have less than half of their time left; the caller holds the repository's lock.

        Each gets a new version. Those of revoked devices may expire.
        """
        due = [it.record for it in self.all().values() if self._is_due(it.record, now)]
        expires = self.expiry(now)
        self.write(self.sign([msgspec.structs.replace(it, version=it.version + 1, expires=expires) for it in due]))

    def _is_due(self, record: DeviceRecord, now: datetime) -> bool:
        return not record.revoked and record.expires - now < self._lifetime / 2

    def sign(self, made: Sequence[DeviceRecord]) -> dict[str, bytes]:
        """Sign records, without writing them, and return each as it is sent, by device.

        Raises:
            UsageError: `usage`, when one is too long; `repo-invalid`, when too few of the fleet's keys are here.
        """
        signatures = self._signed.sign([records.payload(it) for it in made])
        lines = {it.device: _encoded(it, by_key) for it, by_key in zip(made, signatures, strict=True)}
        for device, line in lines.items():
            if len(line) > records.RECORD_MAX_BYTES:
                message = f"the record of {device} would have {len(line)} bytes, limit {records.RECORD_MAX_BYTES}"
                raise UsageError("usage", message, "give the device fewer or shorter labels")
        return lines

    def write(self, lines: Mapping[str, bytes]) -> None:
        """Add signed records, or replace those of the same devices; the caller holds the repository's lock."""
        by_file: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for device, line in lines.items():
            by_file[records.file_of(device)][device] = line
        self._folder.mkdir(exist_ok=True)
        for name, changed in by_file.items():
            kept = {device: records.encode(it) for device, it in self._decoded(name).items()} | changed
            files.write(self._folder / name, b"".join(b"%b\n" % kept[device] for device in sorted(kept)))

    def sign_also(self, keys: Mapping[str, Key]) -> None:
        """Add signatures of new keys to every record, beside those of keys that devices trust now.

        So each record is valid before a rotation and after it. The caller holds the repository's lock.
        """
        kept = keys.keys() | self._signed.trusted(FLEET_KEY)[0].keys()
        for name in self.stamp():
            found = list(self._decoded(name).values())
            added = self._signed.sign([records.payload(it.signed) for it in found], keys)
            self.write(
                {
                    it.signed.device: _encoded(
                        it.signed, {x.keyid: x.sig for x in it.signatures if x.keyid in kept} | new
                    )
                    for it, new in zip(found, added, strict=True)
                }
            )

    def _decoded(self, name: str) -> dict[str, SignedRecord]:
        """Decode a file, by device."""
        try:
            decoded = [records.decode(line) for line in self._lines(name)]
        except RejectedError as error:
            hint = "restore the folder from a backup"
            raise UsageError("repo-invalid", f"{self._folder / name} is damaged: {error.message}", hint) from error
        return {it.signed.device: it for it in decoded}

    def _lines(self, name: str) -> Iterator[bytes]:
        try:
            return records.lines((self._folder / name).read_bytes())
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            hint = "check the owner of the repository's folder and its disk"
            raise UsageError("repo-invalid", f"{self._folder / name} can't be read: {error}", hint) from error

    def _known(self, name: str, labels: dict[tuple[tuple[str, str], ...], dict[str, str]]) -> Iterator[Known]:
        """Read the devices in a file; those with equal labels share one dictionary of `labels`."""
        for record in self._decoded(name).values():
            same = labels.setdefault(tuple(record.signed.labels.items()), record.signed.labels)
            yield Known(msgspec.structs.replace(record.signed, labels=same), digest(records.encode(record)))


def _encoded(record: DeviceRecord, signatures: Mapping[str, str]) -> bytes:
    by_key = tuple(KeySignature(keyid=keyid, sig=signatures[keyid]) for keyid in sorted(signatures))
    return records.encode(SignedRecord(signed=record, signatures=by_key))

"""One TUF repository in a folder: read and verified, changed, signed anew. python-tuf makes and judges the metadata.

With consistent snapshots: every file but `timestamp.json` has a name of its own version or digest and is never
written over. So the rename of `timestamp.json`, the last step of each change, is the change: a crash before it leaves
the old state whole, and who reads in the middle, on disk or among retained messages, never meets a mix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeml.repository import durable
from edgeml.repository.keys import FLEET_KEY, RELEASE_KEY, Keys
from edgeml_core import trust
from edgeml_core.errors import UsageError

#: Which key signs which role. A stolen fleet key can neither release a model nor change whom devices trust.
SIGNED_BY: Final[dict[str, dict[str, str]]] = {
    trust.RELEASES: {"root": RELEASE_KEY, "targets": RELEASE_KEY, "snapshot": FLEET_KEY, "timestamp": FLEET_KEY},
    trust.FLEET: {"root": RELEASE_KEY, "targets": FLEET_KEY, "snapshot": FLEET_KEY, "timestamp": FLEET_KEY},
}
#: Files that nothing names any more are kept a while, so that their retained messages can be found and cleared.
SUPERSEDED_KEPT_FILES: Final = 64

TIMESTAMP_FILE: Final = f"{trust.METADATA_DIR}/timestamp.json"
_HASH: Final = "sha256"
_ORDER: Final = "order"
_Payload = TypeVar("_Payload", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One verified state of a repository. `root` is the newest of `roots`."""

    roots: int
    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    @property
    def expires(self) -> dict[str, datetime]:
        """When each role expires."""
        roles: tuple[Metadata[Any], ...] = (self.root, self.targets, self.snapshot, self.timestamp)
        return {str(metadata.signed.type): metadata.signed.expires for metadata in roles}


class SignedRepository:
    """The TUF repository `name` (of `edgeml_core.trust.REPOSITORIES`) in `folder`."""

    def __init__(self, folder: Path, name: str, keys: Keys) -> None:
        self.folder = folder
        self.name = name
        self._keys = keys

    def create(self, contents: Mapping[str, bytes], now: datetime) -> None:
        """Make the repository, with `contents` as its first targets."""
        (self.folder / trust.METADATA_DIR).mkdir(parents=True)
        (self.folder / trust.TARGETS_DIR).mkdir()
        root = Metadata(Root(consistent_snapshot=True))
        for role, key in SIGNED_BY[self.name].items():
            root.signed.add_key(self._keys.signer(key).public_key, role)
        state = Signed(
            roots=1,
            root=root,
            targets=Metadata(Targets()),
            snapshot=Metadata(Snapshot()),
            timestamp=Metadata(Timestamp()),
        )
        self._sign(state.root, root, now, trust.EXPIRY)
        self._write_metadata(f"{root.signed.version}.root.json", root)
        self._add_targets(state.targets.signed, contents)
        self._write(state, now, targets_changed=True)

    def load(self) -> Signed:
        """The state that `timestamp.json` leads to, its signatures verified; expired metadata is accepted here.

        Raises:
            UsageError: `repo-invalid`, when files are missing, damaged or signed by other keys.
        """
        try:
            roots = 1 + sum(1 for _ in self._later_roots())
            root: Metadata[Root] = Metadata.from_file(str(self._metadata(f"{roots}.root.json")))
            root.verify_delegate(Root.type, root)
            timestamp = self._read(root, "timestamp.json", Timestamp)
            snapshot = self._read(root, f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
            targets_version = snapshot.signed.meta["targets.json"].version
            targets = self._read(root, f"{targets_version}.targets.json", Targets)
        except (RepositoryError, OSError, KeyError) as error:
            raise _invalid(self.folder, error) from error
        return Signed(roots=roots, root=root, targets=targets, snapshot=snapshot, timestamp=timestamp)

    def version(self) -> int:
        """The version of the targets role: it grows with every change."""
        return int(self.load().targets.signed.version)

    def newest_root(self) -> bytes:
        """The trust anchor for a new device."""
        return self._metadata(f"{self.load().roots}.root.json").read_bytes()

    def targets(self) -> list[str]:
        """The paths of all targets in the order in which they were added."""
        targets = self.load().targets.signed.targets
        return sorted(targets, key=lambda path: int(targets[path].custom[_ORDER]))

    def read(self, paths: list[str] | None = None) -> dict[str, bytes]:
        """Targets' contents, checked against what was signed; all of them when no `paths` are given.

        Raises:
            UsageError: `repo-invalid`, when one is missing or damaged.
        """
        state, contents = self.load(), {}
        try:
            for path in self.targets() if paths is None else paths:
                target = state.targets.signed.targets[path]
                contents[path] = (self.folder / trust.TARGETS_DIR / _target_file(target)).read_bytes()
                target.verify_length_and_hashes(contents[path])
        except (RepositoryError, OSError, KeyError) as error:
            raise _invalid(self.folder, error) from error
        return contents

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each target by its path."""
        return {path: target.hashes[_HASH] for path, target in self.load().targets.signed.targets.items()}

    def change(self, contents: Mapping[str, bytes], now: datetime) -> None:
        """Add or replace targets, as one change; the caller holds the repository's lock."""
        state = self.load()
        self._add_targets(state.targets.signed, contents)
        self._write(state, now, targets_changed=True)

    def refresh(self, now: datetime, lifetimes: Mapping[str, timedelta] = trust.EXPIRY) -> dict[str, datetime]:
        """Sign freshness anew, and the targets role too where less than half of its time is left and its key is here.

        Returns:
            When each role expires.
        """
        state = self.load()
        due = state.targets.signed.expires - now < lifetimes["targets"] / 2
        is_signed_anew = due and self._keys.has(SIGNED_BY[self.name]["targets"])
        self._write(state, now, targets_changed=is_signed_anew, lifetimes=lifetimes)
        return state.expires

    def files(self) -> list[str]:
        """The files of the present state, relative to the folder, each before the one that names it; timestamp last."""
        state = self.load()
        metadata = [f"{version}.root.json" for version in range(1, state.roots + 1)]
        metadata += [f"{state.targets.signed.version}.targets.json", f"{state.snapshot.signed.version}.snapshot.json"]
        targets = [f"{trust.TARGETS_DIR}/{_target_file(it)}" for it in state.targets.signed.targets.values()]
        return [*targets, *(f"{trust.METADATA_DIR}/{name}" for name in metadata), TIMESTAMP_FILE]

    def superseded(self) -> list[str]:
        """Files that were part of an earlier state and are of none now, the latest first."""
        found = [
            path for folder in (trust.METADATA_DIR, trust.TARGETS_DIR) for path in (self.folder / folder).iterdir()
        ]
        found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        names = [path.relative_to(self.folder).as_posix() for path in found if not path.name.startswith(".")]
        current = set(self.files())
        return [name for name in names if name not in current]

    def _add_targets(self, targets: Targets, contents: Mapping[str, bytes]) -> None:
        last = max((int(target.custom[_ORDER]) for target in targets.targets.values()), default=0)
        for order, (path, data) in enumerate(contents.items(), start=last + 1):
            target = TargetFile.from_data(path, data, [_HASH])
            target.unrecognized_fields["custom"] = {_ORDER: order}
            durable.write(self.folder / trust.TARGETS_DIR / _target_file(target), data)
            targets.targets[path] = target

    def _write(
        self,
        state: Signed,
        now: datetime,
        *,
        targets_changed: bool,
        lifetimes: Mapping[str, timedelta] = trust.EXPIRY,
    ) -> None:
        """Sign and write bottom up: whoever holds a file can have all that it names."""
        if targets_changed:
            state.targets.signed.version = _next_version(state.targets)
            self._sign(state.root, state.targets, now, lifetimes)
            self._write_metadata(f"{state.targets.signed.version}.targets.json", state.targets)
        state.snapshot.signed.version = _next_version(state.snapshot)
        state.snapshot.signed.meta["targets.json"] = MetaFile(state.targets.signed.version)
        self._sign(state.root, state.snapshot, now, lifetimes)
        self._write_metadata(f"{state.snapshot.signed.version}.snapshot.json", state.snapshot)
        state.timestamp.signed.version = _next_version(state.timestamp)
        state.timestamp.signed.snapshot_meta = MetaFile(state.snapshot.signed.version)
        self._sign(state.root, state.timestamp, now, lifetimes)
        self._write_metadata("timestamp.json", state.timestamp)
        for name in self.superseded()[SUPERSEDED_KEPT_FILES:]:
            (self.folder / name).unlink(missing_ok=True)

    def _sign(
        self, root: Metadata[Root], metadata: Metadata[Any], now: datetime, lifetimes: Mapping[str, timedelta]
    ) -> None:
        role = str(metadata.signed.type)
        metadata.signed.expires = now.replace(microsecond=0) + lifetimes[role]
        trust.stamp(metadata.signed, now)
        metadata.sign(self._keys.signer(SIGNED_BY[self.name][role]))
        try:
            root.verify_delegate(role, metadata)
        except RepositoryError as error:
            hint = "put back the keys that the repository was made with"
            raise UsageError(
                "repo-invalid", f"the {self.name} {role} key is not the one that devices trust", hint
            ) from error

    def _later_roots(self) -> Iterator[int]:
        version = 2
        while self._metadata(f"{version}.root.json").is_file():
            yield version
            version += 1

    def _read(self, root: Metadata[Root], name: str, kind: type[_Payload]) -> Metadata[_Payload]:
        metadata: Metadata[_Payload] = Metadata.from_file(str(self._metadata(name)))
        root.verify_delegate(kind.type, metadata)
        return metadata

    def _write_metadata(self, name: str, metadata: Metadata[Any]) -> None:
        durable.write(self._metadata(name), metadata.to_bytes(JSONSerializer(compact=True)))

    def _metadata(self, name: str) -> Path:
        return self.folder / trust.METADATA_DIR / name


def _next_version(metadata: Metadata[Any]) -> int:
    return int(metadata.signed.version) + 1 if metadata.signatures else 1


def _target_file(target: TargetFile) -> str:
    return f"{target.hashes[_HASH]}.{target.path}"


def _invalid(folder: Path, error: Exception) -> UsageError:
    hint = "restore it from a backup; `edgeml repo init DIR` makes a new one, in which devices must be enrolled anew"
    return UsageError("repo-invalid", f"{folder} is not a whole, rightly signed repository: {error}", hint)

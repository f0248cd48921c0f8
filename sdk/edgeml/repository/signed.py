"""One TUF repository in a folder: read and verified, changed, signed again. python-tuf makes and verifies the metadata.

Snapshots are consistent: every file but `timestamp.json` has its version or digest in its name. No file of the present
state is written over. The rename of `timestamp.json`, the last step of each change, commits the change. A crash before
it leaves the old state complete. A reader at any moment, on disk or among retained messages, never sees a mixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from securesystemslib.signer import Key, Signature, Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeml.repository.keys import FLEET_KEY, RELEASE_KEY, Keys
from edgeml_core import trust
from edgeml_core.errors import UsageError
from edgeml_io import files

#: The group of keys that signs each role. A stolen fleet key can neither release a model nor change the trusted keys.
SIGNED_BY: Final[dict[str, dict[str, str]]] = {
    trust.RELEASES: {"root": RELEASE_KEY, "targets": RELEASE_KEY, "snapshot": FLEET_KEY, "timestamp": FLEET_KEY},
    trust.FLEET: {"root": RELEASE_KEY, "targets": FLEET_KEY, "snapshot": FLEET_KEY, "timestamp": FLEET_KEY},
}
#: Number of superseded files that are kept, so that `serve` finds and clears their retained messages.
SUPERSEDED_KEPT_FILES: Final = 64

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
        """The expiry of each role."""
        roles: tuple[Metadata[Any], ...] = (self.root, self.targets, self.snapshot, self.timestamp)
        return {str(metadata.signed.type): metadata.signed.expires for metadata in roles}


class SignedRepository:
    """The TUF repository `name` (of `edgeml_core.trust.REPOSITORIES`) in `folder`."""

    def __init__(self, folder: Path, name: str, keys: Keys, lifetimes: Mapping[str, timedelta] = trust.EXPIRY) -> None:
        self.lifetimes = lifetimes
        self.folder = folder
        self.name = name
        self._keys = keys

    def create(self, contents: Mapping[str, bytes], keys: Mapping[str, Key], now: datetime) -> None:
        """Make the repository, with `contents` as its first targets and one of `keys` for each group."""
        (self.folder / trust.METADATA_DIR).mkdir(parents=True)
        (self.folder / trust.TARGETS_DIR).mkdir()
        root = Metadata(Root(consistent_snapshot=True))
        for role, group in SIGNED_BY[self.name].items():
            root.signed.add_key(keys[group], role)
        state = Signed(
            roots=1,
            root=root,
            targets=Metadata(Targets()),
            snapshot=Metadata(Snapshot()),
            timestamp=Metadata(Timestamp()),
        )
        self._sign(state.root, root, now, self.lifetimes)
        self._add_targets(state.targets.signed, contents)
        self._write(state, now, changed=(Root.type, Targets.type))

    def load(self) -> Signed:
        """Load the state that `timestamp.json` leads to, and verify its signatures; expired metadata is accepted here.

        Raises:
            UsageError: `repo-invalid`, when files are missing, damaged or signed by other keys.
        """
        newest = self._newest_root()
        try:
            return self._loaded(newest)
        except UnsignedMetadataError as error:
            # An interrupted rotation leaves a root whose keys have signed nothing yet: the root before it is valid.
            with contextlib.suppress(RepositoryError, OSError, KeyError):
                return self._loaded(newest - 1)
            raise _invalid(self.folder, error) from error
        except (RepositoryError, OSError, KeyError) as error:
            raise _invalid(self.folder, error) from error

    def _loaded(self, roots: int) -> Signed:
        root = self._root(roots)
        timestamp = self._read(root, "timestamp.json", Timestamp)
        snapshot = self._read(root, f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
        targets = self._read(root, f"{snapshot.signed.meta['targets.json'].version}.targets.json", Targets)
        return Signed(roots=roots, root=root, targets=targets, snapshot=snapshot, timestamp=timestamp)

    def version(self) -> int:
        """Read the version of the targets role: it grows with every change."""
        return int(self.load().targets.signed.version)

    def newest_root(self) -> bytes:
        """Read the trust anchor for a new device."""
        return self._metadata(f"{self.load().roots}.root.json").read_bytes()

    def targets(self) -> list[str]:
        """List the paths of all targets in the order in which they were added."""
        targets = self.load().targets.signed.targets
        return sorted(targets, key=lambda path: int(targets[path].custom[_ORDER]))

    def read(self, paths: list[str] | None = None) -> dict[str, bytes]:
        """Read targets, checked against their signed digests; all of them when no `paths` are given.

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
        """List the SHA-256 of each target by its path."""
        return {path: target.hashes[_HASH] for path, target in self.load().targets.signed.targets.items()}

    def withdrawn(self) -> frozenset[str]:
        """List the paths of the manifests whose releases are withdrawn."""
        targets = self.load().targets.signed.targets
        return frozenset(path for path, target in targets.items() if trust.is_withdrawn(target))

    def set_withdrawn(self, paths: Collection[str], now: datetime, *, withdrawn: bool) -> None:
        """Withdraw the releases of these manifests, or release them again; the caller holds the repository's lock."""
        state = self.load()
        for path in paths:
            trust.set_withdrawn(state.targets.signed.targets[path], withdrawn=withdrawn)
        self._write(state, now, changed=(Targets.type,))

    def change(self, contents: Mapping[str, bytes], now: datetime) -> None:
        """Add or replace targets, as one change; the caller holds the repository's lock."""
        state = self.load()
        self._add_targets(state.targets.signed, contents)
        self._write(state, now, changed=(Targets.type,))

    def stage(
        self, contents: Mapping[str, bytes], withdrawn: Collection[str], now: datetime
    ) -> tuple[Metadata[Root], Metadata[Targets], Metadata[Targets]]:
        """Make the next targets without signing them; the caller holds the repository's lock.

        Args:
            contents: targets to add or replace.
            withdrawn: paths of manifests whose releases are withdrawn.
            now: the time of the signature to come.

        Returns:
            The root, the present targets and the next ones.
        """
        state, present = self.load(), self.load().targets
        self._add_targets(state.targets.signed, contents)
        for path in withdrawn:
            trust.set_withdrawn(state.targets.signed.targets[path], withdrawn=True)
        state.targets.signed.version = _next_version(state.targets)
        self._prepare(state.targets, now, self.lifetimes)
        return state.root, present, state.targets

    def adopt(self, staged: Metadata[Targets], contents: Mapping[str, bytes], now: datetime) -> None:
        """Take over targets that were signed elsewhere; the caller holds the repository's lock.

        Raises:
            UsageError: `usage`, when they don't follow the present ones; `repo-invalid`, when too few keys signed them.
        """
        state = self.load()
        if staged.signed.version != _next_version(state.targets):
            message = f"the change makes version {staged.signed.version}; {_next_version(state.targets)} is next"
            raise UsageError("usage", message, "stage the change again with `edgeml repo stage`, and sign it")
        self._require_signed(state.root, Targets.type, staged.signed_bytes, staged.signatures)
        for path, data in contents.items():
            files.write(self.folder / trust.TARGETS_DIR / _target_file(staged.signed.targets[path]), data)
        self._write_metadata(f"{staged.signed.version}.targets.json", staged)
        self._write(replace(state, targets=staged), now, changed=())

    def trusted(self, group: str) -> tuple[dict[str, Key], int]:
        """Find the keys that devices trust for a group, by id, and the number that must sign."""
        root = self.load().root.signed
        role = next(root.roles[role] for role, of in SIGNED_BY[self.name].items() if of == group)
        return {keyid: root.keys[keyid] for keyid in role.keyids}, role.threshold

    def sign(self, payloads: Sequence[bytes], keys: Mapping[str, Key] | None = None) -> list[dict[str, str]]:
        """Sign payloads that are no metadata, with the keys of the targets.

        Args:
            payloads: what is signed.
            keys: other keys to sign with, any number of them, by id.

        Returns:
            For each payload the signatures in hex, by the key's id.

        Raises:
            UsageError: `repo-invalid`, when too few keys are here.
        """
        root = self.load().root
        group = SIGNED_BY[self.name][Targets.type]
        signers = self._keys.signers(group, keys) if keys else self._signers(root, Targets.type)
        signed = [{signer.public_key.keyid: signer.sign(payload) for signer in signers} for payload in payloads]
        if keys is None and payloads:
            self._require_signed(root, Targets.type, payloads[0], signed[0])
        return [{keyid: it.signature for keyid, it in of_payload.items()} for of_payload in signed]

    def rotate(self, group: str, keys: Mapping[str, Key], threshold: int, now: datetime) -> None:
        """Replace the keys of a group by `keys`, of which `threshold` must sign, as one change.

        The new root follows the one in force: it replaces that of an interrupted rotation, which `files` never lists.

        Raises:
            UsageError: `repo-invalid`, when too few of the present root keys, or of the new ones, are here.
        """
        state = self.load()
        before = state.root
        root: Metadata[Root] = Metadata.from_bytes(before.to_bytes())
        root.signed.version += 1
        for role, of in SIGNED_BY[self.name].items():
            if of == group:
                _replace(root.signed, role, keys, threshold)
        self._sign(root, root, now, self.lifetimes)
        for signer in self._signers(before, Root.type):
            root.sign(signer, append=True)
        self._require_signed(before, Root.type, root.signed_bytes, root.signatures)
        rotated = replace(state, roots=root.signed.version, root=root)
        self._write(rotated, now, changed=(Root.type, Targets.type))

    def refresh(self, now: datetime, lifetimes: Mapping[str, timedelta] | None = None) -> dict[str, datetime]:
        """Sign snapshot and timestamp again, and the targets too where half their time is over and their key is here.

        Returns:
            The expiry of each role.
        """
        state = self.load()
        due = state.targets.signed.expires - now < (lifetimes or self.lifetimes)["targets"] / 2
        needed = state.root.signed.roles[Targets.type].threshold
        signs_targets = due and self._keys.count(SIGNED_BY[self.name][Targets.type]) >= needed
        self._write(state, now, changed=(Targets.type,) if signs_targets else (), lifetimes=lifetimes)
        return state.expires

    def files(self) -> list[str]:
        """List the files of the present state, relative to the folder. Each comes before the file that names it."""
        state = self.load()
        metadata = [f"{version}.root.json" for version in range(1, state.roots + 1)]
        metadata += [f"{state.targets.signed.version}.targets.json", f"{state.snapshot.signed.version}.snapshot.json"]
        targets = [f"{trust.TARGETS_DIR}/{_target_file(it)}" for it in state.targets.signed.targets.values()]
        return [*targets, *(f"{trust.METADATA_DIR}/{name}" for name in metadata), trust.TIMESTAMP_FILE]

    def superseded(self) -> list[str]:
        """List the files that belong to an earlier state only, the latest first."""
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
            files.write(self.folder / trust.TARGETS_DIR / _target_file(target), data)
            targets.targets[path] = target

    def _write(
        self,
        state: Signed,
        now: datetime,
        *,
        changed: Collection[str],
        lifetimes: Mapping[str, timedelta] | None = None,
    ) -> None:
        """Sign the roles in `changed`, the snapshot and the timestamp; then write them, the timestamp last.

        Nothing is written before all roles are signed. The caller signs a new root.
        """
        lifetimes = lifetimes or self.lifetimes
        if Targets.type in changed:
            state.targets.signed.version = _next_version(state.targets)
            self._sign(state.root, state.targets, now, lifetimes)
        state.snapshot.signed.version = _next_version(state.snapshot)
        state.snapshot.signed.meta["targets.json"] = MetaFile(state.targets.signed.version)
        self._sign(state.root, state.snapshot, now, lifetimes)
        state.timestamp.signed.version = _next_version(state.timestamp)
        state.timestamp.signed.snapshot_meta = MetaFile(state.snapshot.signed.version)
        self._sign(state.root, state.timestamp, now, lifetimes)
        for metadata in (state.root, state.targets, state.snapshot):
            role = str(metadata.signed.type)
            if role in {*changed, Snapshot.type}:
                self._write_metadata(f"{metadata.signed.version}.{role}.json", metadata)
        self._write_metadata("timestamp.json", state.timestamp)
        for name in self.superseded()[SUPERSEDED_KEPT_FILES:]:
            (self.folder / name).unlink(missing_ok=True)

    def _sign(
        self, root: Metadata[Root], metadata: Metadata[Any], now: datetime, lifetimes: Mapping[str, timedelta]
    ) -> None:
        role = str(metadata.signed.type)
        self._prepare(metadata, now, lifetimes)
        for signer in self._signers(root, role):
            metadata.sign(signer, append=True)
        self._require_signed(root, role, metadata.signed_bytes, metadata.signatures)

    def _prepare(self, metadata: Metadata[Any], now: datetime, lifetimes: Mapping[str, timedelta]) -> None:
        """Give metadata its times, and take off the signatures of another content."""
        metadata.signed.expires = now.replace(microsecond=0) + lifetimes[str(metadata.signed.type)]
        trust.stamp(metadata.signed, now, self.name)
        metadata.signatures.clear()

    def _signers(self, root: Metadata[Root], role: str) -> list[Signer]:
        trusted = {keyid: root.signed.keys[keyid] for keyid in root.signed.roles[role].keyids}
        return self._keys.signers(SIGNED_BY[self.name][role], trusted)

    def _require_signed(
        self, root: Metadata[Root], role: str, payload: bytes, signatures: dict[str, Signature]
    ) -> None:
        try:
            root.signed.verify_delegate(role, payload, signatures)
        except RepositoryError as error:
            group, needed = SIGNED_BY[self.name][role], root.signed.roles[role].threshold
            message = (
                f"{needed} {group} key(s) must sign the {self.name} {role}; the folder has too few that devices trust"
            )
            hint = f"put the {group} key back as {self._keys.folder / group}.pem, or plug in its token"
            raise UsageError("repo-invalid", message, hint) from error

    def _newest_root(self) -> int:
        version = 1
        while self._metadata(f"{version + 1}.root.json").is_file():
            version += 1
        return version

    def _root(self, version: int) -> Metadata[Root]:
        root: Metadata[Root] = Metadata.from_bytes(self._metadata(f"{version}.root.json").read_bytes())
        root.verify_delegate(Root.type, root)
        return root

    def _read(self, root: Metadata[Root], name: str, kind: type[_Payload]) -> Metadata[_Payload]:
        metadata: Metadata[_Payload] = Metadata.from_bytes(self._metadata(name).read_bytes())
        root.verify_delegate(kind.type, metadata)
        return metadata

    def _write_metadata(self, name: str, metadata: Metadata[Any]) -> None:
        files.write(self._metadata(name), metadata.to_bytes(JSONSerializer(compact=True)))

    def _metadata(self, name: str) -> Path:
        return self.folder / trust.METADATA_DIR / name


def _next_version(metadata: Metadata[Any]) -> int:
    return int(metadata.signed.version) + 1 if metadata.signatures else 1


def _replace(root: Root, role: str, keys: Mapping[str, Key], threshold: int) -> None:
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys.values():
        root.add_key(key, role)
    root.roles[role].threshold = threshold


def _target_file(target: TargetFile) -> str:
    return f"{target.hashes[_HASH]}.{target.path}"


def _invalid(folder: Path, error: Exception) -> UsageError:
    hint = "restore it from a backup, or make a new one with `edgeml repo init DIR` and enroll the devices again"
    return UsageError("repo-invalid", f"{folder} is not a complete and correctly signed repository: {error}", hint)

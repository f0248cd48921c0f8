"""Rotation: new keys for a group, by a root that both the old keys and the new ones have signed.

Devices follow by themselves, even after a long absence: each root leads to the next. The release keys can replace the
fleet keys without them. Release keys can't be replaced when too few are left to sign: then make a new repository, and
enroll the devices again. All keys that must sign are needed in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SSlibKey

from edgeml.repository import layout
from edgeml.repository.keys import FLEET_KEY, GROUPS
from edgeml.repository.layout import RepositoryFolder
from edgeml_core.errors import UsageError


class NewKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that a group has from now on.

    Attributes:
        files: number of new key files to make.
        secret: encrypts them; empty leaves them open.
        signers: keys on tokens or in key services, each as a signer's URI and a PEM file with its public key.
        keep: whether the present keys stay, too.
        threshold: number of keys that must sign.
    """

    files: int = 1
    secret: str = ""
    signers: tuple[tuple[str, Path], ...] = ()
    keep: bool = False
    threshold: int = 1


class KeyGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of the keys that devices trust for a group, the number that must sign, and the number in the folder."""

    group: str
    keys: tuple[str, ...]
    threshold: int
    here: int

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def groups(repo: Path) -> list[KeyGroup]:
    """List the groups of keys.

    Raises:
        UsageError: `repo-invalid`.
    """
    repository = layout.opened(repo)
    return [_group(repository, group) for group in GROUPS]


def rotate(repo: Path, group: str, new: NewKeys, *, now: datetime | None = None) -> KeyGroup:
    """Replace the keys of a group; both TUF repositories are signed again, and with fleet keys every device's record.

    Args:
        repo: the repository's folder.
        group: `release` or `fleet`.
        new: the keys that the group has from now on.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, when fewer keys are named than must sign, or a public key can't be read;
            `repo-invalid`, when keys that must sign are missing or can't be opened. Nothing is changed then.
    """
    repository = layout.opened(repo)
    with repository.locked():
        present, _ = repository.releases.trusted(group)
        _require_enough(new, len(present))
        added: dict[str, Key] = {}
        try:
            for key in _added(repository, group, new):
                added[key.keyid] = key
            trusted = {**present, **added} if new.keep else added
            now = now or layout.utc_now()
            facts = {"keys": ",".join(sorted(trusted)), "threshold": new.threshold}
            repository.audit.append("rotate", group, facts, now=now)
            for signed in repository.both:
                if group == FLEET_KEY and signed is repository.fleet:
                    repository.records.sign_also(trusted)
                signed.rotate(group, trusted, new.threshold, now)
        except UsageError:
            if not added.keys() & repository.releases.trusted(group)[0].keys():
                repository.keys.retire(group, added)
            raise
        repository.keys.retire(group, present.keys() - trusted.keys())
    return _group(repository, group)


def _group(repository: RepositoryFolder, group: str) -> KeyGroup:
    keys, threshold = repository.releases.trusted(group)
    return KeyGroup(group=group, keys=tuple(sorted(keys)), threshold=threshold, here=repository.keys.count(group))


def _added(repository: RepositoryFolder, group: str, new: NewKeys) -> Iterator[Key]:
    for _ in range(new.files):
        yield repository.keys.make(group, new.secret)
    for uri, path in new.signers:
        try:
            public = SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            hint = "name the PEM file with the public key of that signer"
            raise UsageError("usage", f"the public key {path} can't be read: {error}", hint) from error
        repository.keys.refer(group, uri, public)
        yield public


def _require_enough(new: NewKeys, present: int) -> None:
    count = new.files + len(new.signers) + (present if new.keep else 0)
    if not 1 <= new.threshold <= count:
        message = f"the threshold {new.threshold} is not within 1 and the {count} key(s) named"
        raise UsageError("usage", message, "give --threshold a number from 1 to the number of keys")

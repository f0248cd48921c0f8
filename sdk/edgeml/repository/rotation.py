"""Rotation: other keys, or more of them, for a group; a new root that the old keys and the new ones have signed.

Devices follow by themselves, however long they were away: each root leads to the next. The fleet keys can be replaced
without them, by the release keys. Release keys that are lost, so many that too few are left to sign, can't be replaced:
then a new repository is made, and devices are enrolled anew. All keys that must sign are needed in one place at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SSlibKey

from edgeml.repository import layout
from edgeml.repository.keys import GROUPS
from edgeml.repository.layout import Repository
from edgeml_core.errors import UsageError


class NewKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What a group shall have from now on.

    Attributes:
        files: how many new key files to make.
        secret: encrypts them; empty leaves them open.
        signers: keys that lie elsewhere, each as a signer's URI and a PEM file with its public key.
        keep: whether the present keys stay, too.
        threshold: how many must sign.
    """

    files: int = 1
    secret: str = ""
    signers: tuple[tuple[str, Path], ...] = ()
    keep: bool = False
    threshold: int = 1


class KeyGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of the keys that devices trust for a group, how many must sign, and how many are in the folder."""

    group: str
    keys: tuple[str, ...]
    threshold: int
    here: int

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def groups(repo: Path) -> list[KeyGroup]:
    """The groups of keys as they are.

    Raises:
        UsageError: `repo-invalid`.
    """
    repository = layout.opened(repo)
    return [_group(repository, group) for group in GROUPS]


def rotate(repo: Path, group: str, new: NewKeys, *, now: datetime | None = None) -> KeyGroup:
    """Give a group of keys other members; both TUF repositories are signed anew.

    Args:
        repo: the repository's folder.
        group: `release` or `fleet`.
        new: what the group shall have.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, when fewer keys are asked for than must sign, or a public key can't be read;
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
            for signed in repository.both:
                signed.rotate(group, trusted, new.threshold, now or layout.utc_now())
        except UsageError:
            if not added.keys() & repository.releases.trusted(group)[0].keys():
                repository.keys.retire(group, added)
            raise
        repository.keys.retire(group, present.keys() - trusted.keys())
    return _group(repository, group)


def _group(repository: Repository, group: str) -> KeyGroup:
    keys, threshold = repository.releases.trusted(group)
    return KeyGroup(group=group, keys=tuple(sorted(keys)), threshold=threshold, here=repository.keys.count(group))


def _added(repository: Repository, group: str, new: NewKeys) -> Iterator[Key]:
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
        message = f"{new.threshold} of {count} key(s) can't be asked to sign"
        raise UsageError("usage", message, "let at least one sign, and at most as many as there are")

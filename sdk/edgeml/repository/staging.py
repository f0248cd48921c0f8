"""A change to the releases that is signed on another machine: `stage` writes it, `sign` signs it, `merge` adopts it.

    host with the repository           machine with the release key         host with the repository
    stage: the next targets, unsigned ─▶ sign: shown in words, then signed ─▶ merge: verified, then announced

The folder, on a stick, holds the root, the targets that are signed now, the next ones, and the new files that these
name. It holds no key. The signing machine trusts nothing of it. It verifies the present targets and shows each
difference to the next ones. It signs new releases, measurements, withdrawals and a later expiry, and no other change.
The root must have the signature of its own key: else a thief could show another repository's targets as the present
ones. It remembers the newest version that it signed, so that nobody stages on an older state, without its withdrawals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgeml.repository import deployments, layout
from edgeml.repository.chunk_ids import Outgoing
from edgeml.repository.keys import RELEASE_KEY, Keys
from edgeml.repository.layout import RepositoryFolder
from edgeml.repository.releases import Published, Release, collect, releases
from edgeml_core import card, decoding, manifest, trust
from edgeml_core.errors import EdgemlError, RejectedError, UsageError
from edgeml_io import files

ROOT_FILE: Final = "root.json"
PRESENT_FILE: Final = "present.json"
NEXT_FILE: Final = "next.json"
CONTENTS_FOLDER: Final = "contents"
#: Beside the release key: the newest version and content that each key has signed.
SIGNED_FILE: Final = "release.signed.json"
#: In the repository: the manifests of changes that were staged here, as VERSION-SHA256.json.
STAGED_FOLDER: Final = "staged"
_HASH: Final = "sha256"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A staged change in words: `version` of the targets, one line for each difference, and who has signed so far."""

    version: int
    lines: tuple[str, ...]
    expires: datetime
    signatures: int
    needed: int

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


class Staged:
    """The content of the folder, verified as far as its own signatures go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.root: Metadata[Root] = Metadata.from_bytes((folder / ROOT_FILE).read_bytes())
            self.present: Metadata[Targets] = Metadata.from_bytes((folder / PRESENT_FILE).read_bytes())
            self.next: Metadata[Targets] = Metadata.from_bytes((folder / NEXT_FILE).read_bytes())
            self.root.verify_delegate(Root.type, self.root)
            self.root.verify_delegate(Targets.type, self.present)
            for data in ((folder / ROOT_FILE), (folder / PRESENT_FILE), (folder / NEXT_FILE)):
                trust.check_repository(data.read_bytes(), trust.RELEASES)
        except (OSError, RepositoryError, ValueError, KeyError, AttributeError) as error:
            hint = "stage the change again with `edgeml repo stage`"
            raise UsageError("repo-invalid", f"{folder} holds no staged change: {error}", hint) from error

    def contents(self) -> dict[str, bytes]:
        """Read the new files, checked against the digests in the next targets.

        Raises:
            RejectedError: `digest-mismatch`.
        """
        found = {}
        for path in _changed(self.present.signed, self.next.signed):
            target = self.next.signed.targets[path]
            try:
                data = (self.folder / CONTENTS_FOLDER / target.hashes[_HASH]).read_bytes()
                target.verify_length_and_hashes(data)
            except (OSError, RepositoryError, KeyError) as error:
                raise RejectedError("digest-mismatch", f"the staged file {path} is missing or damaged") from error
            found[path] = data
        return found

    def describe(self) -> Change:
        """Describe the change in words, from what is to be signed.

        Raises:
            RejectedError: `document-format`, when the change has anything else than words are given for.
        """
        lines = tuple(_lines(self.present.signed, self.next.signed, self.contents()))
        role, keys = self.root.signed.roles[Targets.type], self.root.signed.keys
        valid = [keyid for keyid in role.keyids if _is_signed(keys[keyid], self.next, keyid)]
        return Change(
            version=self.next.signed.version,
            lines=lines,
            expires=self.next.signed.expires,
            signatures=len(valid),
            needed=role.threshold,
        )


def stage(
    repo: Path,
    folder: Path,
    bundles: Sequence[Path],
    *,
    group: str | None = None,
    withdraw: str = "",
    now: datetime | None = None,
) -> tuple[Change, list[Published]]:
    """Check bundles, store their chunks, and write the change that releases them, unsigned.

    Args:
        repo: the repository's folder; it needs no release key.
        folder: new or empty, or of an earlier staged change; on a stick.
        bundles: `.edgeml` files. Without any, and without `withdraw`, the signature alone is renewed.
        group: encrypt them for this group.
        withdraw: `NAME:VERSION` of a release that no device shall install any more.
        now: the time of the signature; by default the clock's.

    Raises:
        UsageError: `usage`, for another content of `folder`; `release-exists`; `release-unknown`; `repo-invalid`.
        RejectedError: a bundle is malformed or damaged.
    """
    repository, now = layout.opened(repo), now or layout.utc_now()
    if folder.exists() and not (folder / NEXT_FILE).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("usage", f"{folder} has other content", "name a new folder, or that of an earlier change")
    with repository.locked():
        contents, published = collect(repository, bundles, group)
        withdrawn = _withdrawn(releases(repository), withdraw) if withdraw else []
        facts = {"added": ",".join(contents), "withdrawn": withdraw}
        repository.audit.append("stage", str(folder.name), facts, now=now)
        root, present, staged = repository.releases.stage(contents, withdrawn, now)
        _remember(repository, staged.signed.version, contents)
    try:
        (folder / CONTENTS_FOLDER).mkdir(parents=True, exist_ok=True)
        for data in contents.values():
            files.write(folder / CONTENTS_FOLDER / hashlib.sha256(data).hexdigest(), data)
        for name, metadata in ((ROOT_FILE, root), (PRESENT_FILE, present), (NEXT_FILE, staged)):
            files.write(folder / name, metadata.to_bytes())
    except OSError as error:
        message = f"{folder} can't be written: {error.strerror or error}"
        raise UsageError("usage", message, "use a stick with free space, and repeat the command") from error
    return Staged(folder).describe(), published


class _Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest targets that a key has signed."""

    version: int
    sha256: str


def sign(folder: Path, keys_folder: Path, *, replace: bool = False) -> Change:
    """Sign a staged change with the release keys in a folder; the caller has shown it in words.

    Args:
        folder: the staged change.
        keys_folder: has `release.pem`, and gets a note of the version that was signed.
        replace: sign although a change of this version or a newer one was signed here, and never merged.

    Raises:
        UsageError: `repo-invalid`, when no key there is trusted, or one can't be opened.
        RejectedError: `rollback-attempt`, when a newer version was signed here; `document-format`; `digest-mismatch`.
    """
    staged = Staged(folder)
    staged.describe()
    role = staged.root.signed.roles[Targets.type]
    trusted = {keyid: staged.root.signed.keys[keyid] for keyid in role.keyids}
    signers = Keys(keys_folder).signers(RELEASE_KEY, trusted)
    if not signers:
        hint = "name the folder that has release.pem with --keys"
        raise UsageError("repo-invalid", f"{keys_folder} has no release key that this repository trusts", hint)
    if any(not _is_signed(it.public_key, staged.root, it.public_key.keyid) for it in signers):
        message = "the root in the folder isn't signed by the release key that is here"
        raise UsageError("repo-invalid", message, "don't sign it; find out who wrote the folder")
    path, signed = keys_folder / SIGNED_FILE, _signed_before(keys_folder / SIGNED_FILE)
    now = _Newest(version=staged.next.signed.version, sha256=hashlib.sha256(staged.next.signed_bytes).hexdigest())
    for signer in signers:
        newest = signed.get(signer.public_key.keyid, now)
        if newest != now and now.version <= newest.version and not replace:
            message = f"another change to version {newest.version} was signed here; this one makes {now.version}"
            hint = "merge that change, and stage again, so that its withdrawals aren't lost; --replace if it is void"
            raise RejectedError("rollback-attempt", message, hint)
    for signer in signers:
        staged.next.sign(signer, append=True)
        signed[signer.public_key.keyid] = now
    try:
        files.write(path, msgspec.json.encode(signed, order="sorted"))
        files.write(folder / NEXT_FILE, staged.next.to_bytes())
    except OSError as error:
        raise UsageError("usage", f"the signature can't be written: {error}", "check both folders' disks") from error
    return staged.describe()


def merge(repo: Path, folder: Path, *, now: datetime | None = None) -> Change:
    """Adopt a signed change into the repository; the fleet key signs its snapshot.

    Raises:
        UsageError: `usage`, when the repository has changed since the change was staged; `repo-invalid`, when too few
            keys have signed it.
        RejectedError: `digest-mismatch`, when a file or a chunk of a release is missing; `document-format`.
    """
    repository, staged, now = layout.opened(repo), Staged(folder), now or layout.utc_now()
    change, contents = staged.describe(), staged.contents()
    with repository.locked():
        _check_chunks(repository, contents)
        facts = {"version": change.version, "change": "; ".join(change.lines)}
        repository.audit.append("merge", str(folder.name), facts, now=now)
        repository.releases.adopt(staged.next, contents, now)
    return change


def _signed_before(path: Path) -> dict[str, _Newest]:
    try:
        return decoding.from_json(path.read_bytes(), dict[str, _Newest]) if path.exists() else {}
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError("repo-invalid", f"{path} can't be read: {error}", "restore it from a backup") from error


def _withdrawn(published: Sequence[Release], withdraw: str) -> list[str]:
    name, _, version = withdraw.partition(":")
    deployments.check_published(list(published), name, version)
    return [
        trust.manifest_target(it.manifest.stem)
        for it in published
        if (it.manifest.name, it.manifest.version) == (name, version)
    ]


def staged_releases(repository: RepositoryFolder) -> list[Release]:
    """Return the releases of changes that were staged here and can still be merged."""
    signed = repository.releases.version()
    return [_release(path.read_bytes()) for path, version in _remembered(repository) if version > signed]


def _remember(repository: RepositoryFolder, version: int, contents: Mapping[str, bytes]) -> None:
    """Keep the manifests of a staged change, and forget those of changes that can't be merged any more."""
    for path, old in _remembered(repository):
        if old < version:
            path.unlink()
    folder = repository.folder / STAGED_FOLDER
    folder.mkdir(exist_ok=True)
    for data in _manifests(contents):
        files.write(folder / f"{version}-{hashlib.sha256(data).hexdigest()}.json", data)


def _remembered(repository: RepositoryFolder) -> Iterator[tuple[Path, int]]:
    """Find the manifests of staged changes, each with the version of the targets that the change makes."""
    for path in sorted((repository.folder / STAGED_FOLDER).glob("*-*.json")):
        yield path, int(path.name.partition("-")[0])


def _manifests(contents: Mapping[str, bytes]) -> Iterator[bytes]:
    for path, data in contents.items():
        if path.endswith(trust.MANIFEST_SUFFIX) and not path.endswith(card.MEASUREMENTS_SUFFIX):
            yield data


def _release(data: bytes) -> Release:
    return Release(manifest=manifest.decode(data), manifest_sha256=hashlib.sha256(data).hexdigest())


def _check_chunks(repository: RepositoryFolder, contents: Mapping[str, bytes]) -> None:
    """Check that the chunks of each new release are stored: `stage` on this repository has stored them."""
    for release in map(_release, _manifests(contents)):
        for _ in repository.chunks.wires(Outgoing([release], repository.groups).own(release)):
            pass


def _changed(present: Targets, staged: Targets) -> list[str]:
    """List the paths whose content is new."""
    return [
        path
        for path, target in staged.targets.items()
        if path not in present.targets or present.targets[path].hashes != target.hashes
    ]


def _lines(present: Targets, staged: Targets, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Say each difference. One that words aren't given for is refused."""
    if staged.version != present.version + 1:
        raise _strange(f"version {staged.version} after {present.version}")
    if present.targets.keys() - staged.targets.keys():
        raise _strange(f"{min(present.targets.keys() - staged.targets.keys())} is removed")
    if staged.delegations is not None:
        raise _strange("delegations")
    for path, target in staged.targets.items():
        before = present.targets.get(path)
        if path in contents:
            yield _new(path, target, before, contents[path])
        was, is_now = before is not None and trust.is_withdrawn(before), trust.is_withdrawn(target)
        if was != is_now:
            yield f"{'WITHDRAW' if is_now else 'PERMIT AGAIN'} {path.removesuffix(trust.MANIFEST_SUFFIX)}"
        elif before is not None and path not in contents and before.to_dict() != target.to_dict():
            raise _strange(f"the description of {path}")
    yield f"valid until {staged.expires:%Y-%m-%d}"


def _new(path: str, target: TargetFile, before: TargetFile | None, data: bytes) -> str:
    """Say what one new or changed file is."""
    digest = target.hashes[_HASH]
    if path.endswith(card.MEASUREMENTS_SUFFIX):
        return f"measurements of {path.removesuffix(card.MEASUREMENTS_SUFFIX)}, SHA-256 {digest}"
    if before is not None:
        raise _strange(f"{path} gets another content")
    if path.endswith(trust.GROUP_SUFFIX):
        return f"{path.removesuffix(trust.GROUP_SUFFIX)} is encrypted for the group {data.decode(errors='replace')!r}"
    try:
        made = manifest.decode(data)
    except EdgemlError as error:
        raise _strange(f"{path} is no manifest") from error
    if path != trust.manifest_target(made.stem):
        raise _strange(f"{path} is the manifest of {made.stem}")
    size = f"{made.size_bytes / 1e6:.1f} MB"
    return f"RELEASE {made.name} {made.version} for {made.target}, {made.file_format}, {size}, manifest {digest}"


def _strange(found: str) -> RejectedError:
    message = f"the staged change has something that no command stages: {found}"
    return RejectedError("document-format", message, "don't sign it; find out who wrote the folder")


def _is_signed(key: Any, metadata: Metadata[Any], keyid: str) -> bool:  # noqa: ANN401 - securesystemslib's
    if keyid not in metadata.signatures:
        return False
    try:
        key.verify_signature(metadata.signatures[keyid], metadata.signed_bytes)
    except Exception:  # noqa: BLE001 - each scheme raises errors of its own
        return False
    return True

"""Keys that change, several keys, keys that lie elsewhere: judged by a device's own verifier."""

from __future__ import annotations

import asyncio
import errno
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeml import repository
from edgeml.fleet import serve
from edgeml.fleet.link import Broker
from edgeml.repository import NewKeys, layout, passphrase, rotation
from edgeml.repository.signed import SignedRepository
from edgeml_agent.offline.sources import FolderFiles
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.trust import Trust
from edgeml_core import broker as broker_urls
from edgeml_core import trust
from edgeml_core.errors import RejectedError, UsageError
from support import samples

GROUPS = ("release", "fleet")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one device, and one release to publish beside it."""
    repository.init(tmp_path / "repo", fleet="farm")
    repository.enroll(tmp_path / "repo", "pi-1", labels={}, broker_url=None, out_dir=tmp_path / "device")
    (tmp_path / "sample.edgeml").write_bytes(samples.a_bundle())
    return tmp_path / "repo"


@pytest.fixture
def look(tmp_path: Path, repo: Path):
    """The device looks at a repository, by default the right one; what it has seen stays."""

    def look(at: Path = repo, store: str = "store"):
        device = DeviceSettings(id="pi-1", fleet="farm")
        judge = Trust(tmp_path / "device" / "trust", tmp_path / store, FolderFiles(at), device)
        judge.desired()
        return judge.record()

    return look


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("group", GROUPS)
def test_devices_follow_to_new_keys_and_believe_the_old_no_more(repo: Path, tmp_path: Path, look, group: str):
    """Whoever has the old key then can sign as much as they like."""
    shutil.copytree(repo, stolen := tmp_path / "stolen")
    rotated = repository.rotate(repo, group, NewKeys())
    assert (len(rotated.keys), rotated.threshold, rotated.here) == (1, 1, 1)
    assert (repo / "keys" / "retired" / f"{group}.pem").is_file()
    look()
    shutil.copytree(tmp_path / "store", tmp_path / "other", symlinks=True)
    for number in range(5):
        (tmp_path / "evil.edgeml").write_bytes(samples.a_bundle(samples.a_manifest(version=f"6.{number}")))
        repository.publish(stolen, [tmp_path / "evil.edgeml"])
        opened = repository.opened(stolen)
        opened.write_document(opened.document(), layout.utc_now())
        repository.refresh(stolen)
    with pytest.raises(RejectedError) as caught:
        look(stolen, "other")
    assert caught.value.code == "signature-invalid"
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    look()


def test_a_device_that_was_away_follows_through_all_roots(repo: Path, tmp_path: Path, look):
    """From the anchor that it was enrolled with, which knows none of the keys of today."""
    for group in GROUPS * 3:
        repository.rotate(repo, group, NewKeys())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    assert look().device == "pi-1"


def test_several_keys_of_which_some_must_sign(repo: Path, tmp_path: Path, look):
    """Two of three sign; with one alone nothing is released."""
    repository.rotate(repo, "release", NewKeys(files=3, threshold=2))
    first, second, _ = sorted((repo / "keys").glob("release-*.pem"))
    first.unlink()
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    look()
    second.unlink()
    before = content(repo / trust.RELEASES)
    (tmp_path / "next.edgeml").write_bytes(samples.a_bundle(samples.a_manifest(version="1.1")))
    with pytest.raises(UsageError, match="2 release key") as caught:
        repository.publish(repo, [tmp_path / "next.edgeml"])
    assert caught.value.code == "repo-invalid"
    assert content(repo / trust.RELEASES).keys() - before.keys() <= {
        f for f in content(repo / trust.RELEASES) if "targets/" in f
    }
    look()


def test_present_keys_can_stay(repo: Path, look):
    """One key more, and both must sign."""
    repository.rotate(repo, "fleet", NewKeys(keep=True, threshold=2))
    assert [(it.group, len(it.keys), it.threshold, it.here) for it in rotation.groups(repo)] == [
        ("release", 1, 1, 1),
        ("fleet", 2, 2, 2),
    ]
    repository.refresh(repo)
    look()


def test_a_lost_fleet_key_is_replaced(repo: Path, look):
    """The release key suffices."""
    (repo / "keys" / "fleet.pem").unlink()
    repository.rotate(repo, "fleet", NewKeys())
    repository.refresh(repo)
    look()


@pytest.mark.parametrize(
    ("group", "new"),
    [
        ("fleet", NewKeys()),
        ("release", NewKeys()),
        ("release", NewKeys(files=1, threshold=2)),
        ("fleet", NewKeys(files=0)),
    ],
)
def test_what_can_t_be_signed_changes_nothing(repo: Path, look, group: str, new: NewKeys):
    """Without the release key no keys change; nor when fewer are asked for than must sign."""
    if new.files == new.threshold:
        (repo / "keys" / "release.pem").unlink()
    before = content(repo)
    with pytest.raises(UsageError):
        repository.rotate(repo, group, new)
    # The audit log has the attempt.
    del before["audit.jsonl"]
    assert before.items() <= content(repo).items()
    assert {path.name for path in (repo / "keys").glob("*.pem")} == {
        Path(name).name for name in before if ".pem" in name
    }
    look()


@pytest.mark.parametrize("group", GROUPS)
def test_a_rotation_cut_short_is_none(repo: Path, tmp_path: Path, look, group: str):
    """The new root is there, what it should vouch for is not: the old state holds, and the next rotation succeeds."""
    shutil.copytree(repo, later := tmp_path / "later")
    repository.rotate(later, group, NewKeys())
    for name in trust.REPOSITORIES:
        shutil.copy(later / name / "metadata" / "2.root.json", repo / name / "metadata")
    (made,) = (later / "keys").glob(f"{group}-*.pem")
    shutil.copy(made, repo / "keys")
    repository.refresh(repo)
    assert [signed.load().roots for signed in repository.opened(repo).both] == [1, 2 if group == "release" else 1]
    repository.rotate(repo, group, NewKeys())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    look()


@pytest.mark.parametrize("group", GROUPS)
def test_a_rotation_that_is_cut_short_twice_is_none(repo: Path, tmp_path: Path, look, monkeypatch, group: str):
    """The disk is full after the new root. The operator repeats the command, as the hint tells, without more space."""
    written = SignedRepository._write_metadata

    def refuse(self: SignedRepository, name: str, metadata: object) -> None:
        if name.endswith(".targets.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self, name, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(SignedRepository, "_write_metadata", refuse)
        for _ in range(2):
            with pytest.raises(UsageError, match="No space left"):
                repository.rotate(repo, group, NewKeys())
    assert repository.opened(repo).document().deployments == ()
    repository.rotate(repo, group, NewKeys())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    look()


def test_a_key_that_lies_elsewhere(repo: Path, tmp_path: Path, look):
    """By its signer's URI; nothing of it is copied here. Without it nothing is signed, and the error says so."""
    private = Ed25519PrivateKey.generate()
    pem, public = tmp_path / "token.pem", tmp_path / "token.pub"
    plain = serialization.NoEncryption()
    pem.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, spki))
    repository.rotate(repo, "fleet", NewKeys(files=0, signers=((f"file2:{pem}", public),)))
    assert [path.suffix for path in (repo / "keys").glob("fleet*")] == [".uri"]
    repository.refresh(repo)
    look()
    pem.unlink()
    with pytest.raises(UsageError, match=r"\.uri") as caught:
        repository.refresh(repo)
    assert caught.value.code == "repo-invalid"


@pytest.mark.parametrize("uri", ["nowhere:1", "file2:/nowhere"])
def test_a_signer_that_can_t_be_had_is_no_key(repo: Path, tmp_path: Path, look, uri: str):
    """Nothing changes; a public key that is none is refused, too."""
    public = tmp_path / "token.pub"
    key = Ed25519PrivateKey.generate().public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_bytes(serialization.Encoding.PEM, spki))
    for path in (public, tmp_path / "sample.edgeml", tmp_path / "nothing"):
        with pytest.raises(UsageError):
            repository.rotate(repo, "fleet", NewKeys(files=0, signers=((uri, path),)))
    repository.refresh(repo)
    look()


def test_new_keys_are_encrypted_when_a_passphrase_is_given(repo: Path, look, monkeypatch):
    """And need it."""
    repository.rotate(repo, "fleet", NewKeys(secret="correct horse"))
    (pem,) = (repo / "keys").glob("fleet-*.pem")
    assert b"ENCRYPTED" in pem.read_bytes()
    with pytest.raises(UsageError) as caught:
        repository.refresh(repo)
    assert passphrase.VARIABLE in caught.value.hint
    monkeypatch.setenv(passphrase.VARIABLE, "correct horse")
    repository.refresh(repo)
    look()


def test_serving_with_a_locked_key_says_so_at_once(repo: Path):
    """Not a month later, when it must sign."""
    repository.rotate(repo, "fleet", NewKeys(secret="correct horse"))
    nobody = Broker(url=broker_urls.parse("mqtt://127.0.0.1:1"))
    with pytest.raises(UsageError, match="locked") as caught:
        asyncio.run(serve.serve(repo, nobody, events=None))
    assert caught.value.code == "repo-invalid"


def test_a_far_future_that_was_signed_ends_with_its_key(repo: Path, look):
    """A host whose clock was in 2100, or a thief, can't keep devices there."""
    repository.refresh(repo, now=datetime(2100, 1, 1, tzinfo=UTC))
    for _ in range(2):
        with pytest.raises(RejectedError) as caught:
            look()
        assert caught.value.code == "trust-expired"
        repository.refresh(repo)
    repository.rotate(repo, "fleet", NewKeys())
    with pytest.raises(RejectedError):
        look()
    look()


def test_roots_are_renewed_by_a_rotation_to_the_same_keys(repo: Path, look):
    """No key need change for that."""
    later = datetime.now(UTC) + timedelta(days=1)
    repository.rotate(repo, "release", NewKeys(files=0, keep=True), now=later)
    state = repository.opened(repo).releases.load()
    assert (state.roots, state.expires["root"] > later + timedelta(days=3649)) == (2, True)
    look()

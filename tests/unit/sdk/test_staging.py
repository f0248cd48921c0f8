"""The release key on a machine of its own: a change is staged, shown in words, signed elsewhere and merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from edgeml import repository
from edgeml.cli.main import run
from edgeml.repository import layout, staging
from edgeml.repository.releases import releases
from edgeml_core import trust
from edgeml_core.errors import EdgemlError
from support import samples


def bundle(folder: Path, version: str) -> Path:
    """A bundle of the sample model."""
    of = samples.a_manifest(version=version)
    path = folder / f"{of.stem}.edgeml"
    path.write_bytes(samples.a_bundle(of))
    return path


@pytest.fixture
def made(tmp_path: Path):
    """A repository without its release key, which lies in a folder of its own, and an empty stick."""
    repo, offline = tmp_path / "repo", tmp_path / "offline"
    repository.init(repo, secret="")
    repository.publish(repo, [bundle(tmp_path, "1.0")])
    offline.mkdir()
    (repo / "keys" / "release.pem").rename(offline / "release.pem")
    return SimpleNamespace(tmp=tmp_path, repo=repo, offline=offline, stick=tmp_path / "stick")


def command(capsys, *arguments: object, exit_code: int = 0) -> dict[str, object]:
    """What a command answers in JSON."""
    with pytest.raises(SystemExit) as caught:
        run([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert caught.value.code == exit_code, shown
    return {**json.loads(shown.out), "words": shown.err}


def released(repo: Path) -> dict[str, bool]:
    """The released versions, and whether each is withdrawn."""
    return {it.manifest.version: it.withdrawn for it in releases(layout.opened(repo))}


def code(call) -> str:
    """The code of the error that a call raises."""
    with pytest.raises(EdgemlError) as caught:
        call()
    return caught.value.code


def test_release_is_staged_signed_elsewhere_and_merged(made, capsys):
    """By the commands; the signing machine has the key and the stick alone. The audit log has both acts."""
    path = bundle(made.tmp, "2.0")
    assert code(lambda: repository.publish(made.repo, [path])) == "repo-invalid"
    staged = command(capsys, "repo", "stage", made.stick, path, "--repo", made.repo)
    assert (staged["signatures"], staged["needed"]) == (0, 1)
    assert released(made.repo) == {"1.0": False}
    hidden = made.repo.rename(made.tmp / "unplugged")
    signed = command(capsys, "repo", "sign", made.stick, "--keys", made.offline, "--yes")
    assert "RELEASE sample 2.0 for " in str(signed["words"])
    assert signed["signatures"] == 1
    hidden.rename(made.repo)
    merged = command(capsys, "repo", "merge", made.stick, "--repo", made.repo)
    assert merged["lines"] == staged["lines"]
    assert released(made.repo) == {"1.0": False, "2.0": False}
    assert [it.act for it in layout.opened(made.repo).audit.entries()][-2:] == ["stage", "merge"]
    assert not list(made.stick.rglob("*.pem"))
    assert repository.deploy(made.repo, "sample", "2.0", selector="", allow_empty=True).deployment.version == "2.0"


def test_withdrawal_is_signed_elsewhere(made):
    """And its words say so; a second stage begins after it."""
    change, _ = staging.stage(made.repo, made.stick, [], withdraw="sample:1.0")
    assert change.lines[0].startswith("WITHDRAW sample-1.0-")
    staging.sign(made.stick, made.offline)
    staging.merge(made.repo, made.stick)
    assert released(made.repo) == {"1.0": True}
    staging.stage(made.repo, made.stick, [bundle(made.tmp, "2.0")])
    staging.sign(made.stick, made.offline)
    staging.merge(made.repo, made.stick)
    assert released(made.repo) == {"1.0": True, "2.0": False}


def test_unsigned_or_wrongly_signed_change_is_not_merged(made):
    """Nor one that another change has overtaken; the repository stays as it was."""
    staging.stage(made.repo, made.stick, [bundle(made.tmp, "2.0")])
    assert code(lambda: staging.merge(made.repo, made.stick)) == "repo-invalid"
    other = made.tmp / "other"
    repository.init(other, secret="")
    assert code(lambda: staging.sign(made.stick, other / "keys")) == "repo-invalid"
    staging.sign(made.stick, made.offline)
    second = made.tmp / "second"
    shutil.copytree(made.stick, second)
    staging.merge(made.repo, made.stick)
    assert code(lambda: staging.merge(made.repo, second)) == "usage"
    assert code(lambda: staging.merge(other, second)) in {"repo-invalid", "usage", "digest-mismatch"}


def test_older_state_is_not_signed_again(made):
    """Else a thief of the host could lose a withdrawal; the operator may say that the earlier change is void."""
    staging.stage(made.repo, made.stick, [bundle(made.tmp, "2.0")])
    old = made.tmp / "old"
    shutil.copytree(made.stick, old)
    staging.stage(made.repo, made.stick, [], withdraw="sample:1.0")
    staging.sign(made.stick, made.offline)
    assert code(lambda: staging.sign(old, made.offline)) == "rollback-attempt"
    assert staging.sign(old, made.offline, replace=True).signatures == 1


def _remove(targets: Targets) -> None:
    targets.targets.clear()


def _describe_otherwise(targets: Targets) -> None:
    for target in targets.targets.values():
        target.unrecognized_fields["custom"] = {"order": 1, "extra": True}


def _jump(targets: Targets) -> None:
    targets.version += 5


def _replace(targets: Targets) -> None:
    for target in targets.targets.values():
        target.hashes["sha256"] = "0" * 64


@pytest.mark.parametrize("change", [_remove, _describe_otherwise, _jump, _replace])
def test_change_without_words_is_not_signed(made, change):
    """A host that was taken over can write the stick."""
    staging.stage(made.repo, made.stick, [])
    path = made.stick / staging.NEXT_FILE
    metadata = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    path.write_bytes(metadata.to_bytes())
    assert code(lambda: staging.sign(made.stick, made.offline)) in {"document-format", "digest-mismatch"}
    assert not Metadata.from_bytes(path.read_bytes()).signatures


def test_root_of_a_thief_is_not_signed(made):
    """It names the release key beside the thief's own, whose targets would pass as those that are signed now."""
    staging.stage(made.repo, made.stick, [])
    root = Metadata.from_bytes((made.stick / staging.ROOT_FILE).read_bytes())
    thief = CryptoSigner.generate_ed25519()
    for role in ("root", "targets"):
        root.signed.add_key(thief.public_key, role)
    root.sign(thief)
    present = Metadata.from_bytes((made.stick / staging.PRESENT_FILE).read_bytes())
    present.signed.targets.clear()
    present.sign(thief)
    staged = Metadata.from_bytes((made.stick / staging.NEXT_FILE).read_bytes())
    staged.signed.targets.clear()
    for name, metadata in ((staging.ROOT_FILE, root), (staging.PRESENT_FILE, present), (staging.NEXT_FILE, staged)):
        (made.stick / name).write_bytes(metadata.to_bytes())
    staging.Staged(made.stick).describe()
    assert code(lambda: staging.sign(made.stick, made.offline)) == "repo-invalid"


def test_change_with_lost_files_is_not_signed(made):
    """Each new file is read back."""
    staging.stage(made.repo, made.stick, [bundle(made.tmp, "2.0")])
    for path in (made.stick / staging.CONTENTS_FOLDER).iterdir():
        path.write_bytes(b"another")
    assert code(lambda: staging.sign(made.stick, made.offline)) == "digest-mismatch"


def test_two_keys_sign_on_two_machines(made):
    """Each sees the words; only then the change is merged."""
    (made.offline / "release.pem").rename(made.repo / "keys" / "release.pem")
    new = repository.NewKeys(secret="", files=2, threshold=2)
    repository.Repository.open(made.repo).rotate("release", new)
    folders = []
    for path in sorted((made.repo / "keys").glob("release-*.pem")):
        folders.append(made.tmp / path.stem)
        folders[-1].mkdir()
        path.rename(folders[-1] / path.name)
    staging.stage(made.repo, made.stick, [bundle(made.tmp, "2.0")])
    assert staging.sign(made.stick, folders[0]).signatures == 1
    assert code(lambda: staging.merge(made.repo, made.stick)) == "repo-invalid"
    assert staging.sign(made.stick, folders[1]).signatures == 2
    staging.merge(made.repo, made.stick)
    assert "2.0" in released(made.repo)


def test_other_folders_and_the_fleet_repository_are_refused(made):
    """A folder with other content is left alone; metadata of the fleet repository isn't signed as releases."""
    made.stick.mkdir()
    (made.stick / "photo.jpg").write_bytes(b"x")
    assert code(lambda: staging.stage(made.repo, made.stick, [])) == "usage"
    staged = made.tmp / "staged"
    staging.stage(made.repo, staged, [])
    shutil.copy(made.repo / trust.FLEET / "metadata" / "1.root.json", staged / staging.ROOT_FILE)
    assert code(lambda: staging.sign(staged, made.offline)) in {"repo-invalid", "signature-invalid"}

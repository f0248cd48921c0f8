"""Trust against real repositories, signed by the host's own code and read from their folders."""

import os
import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from edgeml import repository
from edgeml.repository import layout
from edgeml.repository.deployments import deploy
from edgeml_agent.offline.sources import FolderFiles
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.time_floor import FOLDER_NAME, TimeFloor
from edgeml_agent.trust.trust import HeldFiles, Trust, verified_metadata
from edgeml_core import chunks, trust
from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from support.samples import a_bundle, a_manifest

BOARD = DeviceSettings(id="board-1", fleet="farm")
STEM = "sample-1.0-rpi4-onnx"


def in_1970():
    """The clock of a board that has none."""
    return datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


@pytest.fixture
def repo(tmp_path):
    """A repository with one device, one release and its deployment."""
    made = tmp_path / "repo"
    repository.init(made, fleet="farm")
    repository.enroll(made, "board-1", labels={"site": "a"}, broker_url=None, out_dir=tmp_path / "device")
    release(made, "1.0")
    return made


def release(repo, version):
    """Publish and deploy a version."""
    path = repo.parent / f"sample-{version}.edgeml"
    path.write_bytes(a_bundle(a_manifest(version=version)))
    repository.publish(repo, [path])
    deploy(repo, "sample", version, selector="")


@pytest.fixture
def judge(repo, tmp_path):
    """The device's trust, over the repository's folder."""
    return Trust(tmp_path / "device" / "trust", tmp_path / "store", FolderFiles(repo), BOARD)


def again(tmp_path, source, clock=layout.utc_now):
    """The same device after a restart, with signed files from elsewhere, or another clock."""
    anchors, state = tmp_path / "device" / "trust", tmp_path / "store"
    return Trust(anchors, state, source, BOARD, TimeFloor(anchors, state, clock))


def manifest_digest(document):
    """What the newest deployment wants."""
    return document.deployments[-1].bundles[0].manifest_sha256


def test_document_and_manifest_come_through(judge):
    """What the host signed is what the device reads."""
    document = judge.desired()
    assert judge.record().labels == {"site": "a"}
    digest = manifest_digest(document)
    assert chunks.sha256(judge.manifest(STEM, digest)) == digest


def test_new_versions_are_seen(judge, repo):
    """At the next look."""
    assert judge.desired().deployments[-1].version == "1.0"
    release(repo, "1.1")
    assert judge.desired().deployments[-1].version == "1.1"


def test_refresh_without_news_writes_no_metadata(judge, repo, tmp_path, monkeypatch):
    """A device looks every ten minutes; before, each look wrote and synced all metadata."""
    judge.desired()
    folders = [tmp_path / "store" / FOLDER_NAME / name for name in ("releases", "fleet")]

    def state():
        found = [path for folder in folders for path in sorted(folder.rglob("*"))]
        return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in found if not path.is_dir()}

    before, synced = state(), []
    monkeypatch.setattr(os, "fsync", synced.append)
    judge.desired()
    assert state() == before
    assert synced == []
    release(repo, "1.1")
    for _ in range(2):  # the second removes the folders of the state before
        assert judge.desired().deployments[-1].version == "1.1"
    assert synced
    assert not before.keys() & state().keys()


def test_verified_metadata_has_the_names_of_the_repository(judge, repo, tmp_path):
    """A relay retains it for its site's devices: byte for byte, with the newest root by a name of its own."""
    repository.rotate(repo, "fleet", repository.NewKeys())
    judge.desired()
    found = verified_metadata(tmp_path / "store")
    for (name, file), data in found.items():
        original = "metadata/2.root.json" if file == trust.NEWEST_ROOT_FILE else file
        assert data == (repo / name / original).read_bytes(), file
    roles = [file.rpartition("/")[2].lstrip("0123456789.") for name, file in found if name == trust.FLEET]
    assert sorted(roles) == sorted([*["root.json"] * 3, "timestamp.json", "snapshot.json", "targets.json"])


def test_trust_of_an_unlisted_release_is_a_transport_error(judge):
    """Perhaps it comes later."""
    with pytest.raises(TransportError) as caught:
        judge.manifest("sample-9.9-rpi4-onnx", "0" * 64)
    assert caught.value.code == "trust-unavailable"


def test_both_repositories_must_agree(judge):
    """A stolen fleet key can't name other content than was released."""
    judge.desired()
    with pytest.raises(RejectedError) as caught:
        judge.manifest(STEM, "0" * 64)
    assert caught.value.code == "digest-mismatch"


def test_a_manifest_changed_on_the_way_is_refused_and_wanted_again(judge, repo):
    """Whoever changed it says nothing against the release."""
    digest = manifest_digest(judge.desired())
    path = repo / "releases" / "targets" / f"{digest}.{STEM}.json"
    path.write_bytes(path.read_bytes().replace(b'"sample"', b'"simple"'))
    with pytest.raises(TransportError) as caught:
        judge.manifest(STEM, digest)
    assert caught.value.code == "digest-mismatch"


def test_metadata_of_the_other_repository_is_refused(judge, repo):
    """Though the same key signs the timestamps of both; and the right one is believed afterwards."""
    theirs, ours = repo / "releases" / "metadata" / "timestamp.json", repo / "fleet" / "metadata" / "timestamp.json"
    right = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(RejectedError) as caught:
        judge.desired()
    assert caught.value.code == "signature-invalid"
    ours.write_bytes(right)
    judge.desired()


@pytest.mark.parametrize("repo_name", ["releases", "fleet"])
def test_metadata_of_unknown_keys_is_refused(judge, repo, tmp_path, repo_name):
    """Of either repository; what was believed before still is."""
    before = judge.desired()
    other = tmp_path / "other"
    repository.init(other, fleet="farm")
    for _ in range(4):
        repository.refresh(other)
    shutil.copytree(repo, mixed := tmp_path / "mixed")
    shutil.rmtree(mixed / repo_name)
    shutil.copytree(other / repo_name, mixed / repo_name)
    with pytest.raises(RejectedError) as caught:
        again(tmp_path, FolderFiles(mixed)).desired()
    assert caught.value.code == "signature-invalid"
    assert again(tmp_path, FolderFiles(repo)).desired() == before


@pytest.mark.parametrize("repo_name", ["releases", "fleet"])
def test_older_metadata_is_refused_also_after_a_restart(judge, repo, tmp_path, repo_name):
    """What was seen is on the disk."""
    shutil.copytree(repo, old := tmp_path / "old")
    repository.refresh(repo)
    release(repo, "1.1")
    judge.desired()
    shutil.rmtree(repo / repo_name)
    shutil.copytree(old / repo_name, repo / repo_name)
    with pytest.raises(RejectedError) as caught:
        again(tmp_path, FolderFiles(repo)).desired()
    assert caught.value.code == "rollback-attempt"


def test_expired_metadata_is_refused(tmp_path):
    """With the remedy."""
    past = layout.utc_now() - timedelta(days=4000)
    repository.init(tmp_path / "repo", fleet="farm", now=past)
    repository.enroll(tmp_path / "repo", "board-1", labels={}, broker_url=None, out_dir=tmp_path / "device")
    with pytest.raises(RejectedError) as caught:
        again(tmp_path, FolderFiles(tmp_path / "repo")).desired()
    assert caught.value.code == "trust-expired"
    assert "repo refresh" in caught.value.hint


def test_a_clock_in_1970_lets_no_expired_metadata_pass(tmp_path):
    """The newest signed time that was seen, in either repository, is the least that it can be."""
    repo, past = tmp_path / "repo", layout.utc_now() - timedelta(days=40)
    repository.init(repo, fleet="farm", now=past)
    repository.enroll(repo, "board-1", labels={}, broker_url=None, out_dir=tmp_path / "device")
    again(tmp_path, FolderFiles(repo), in_1970).desired()
    repository.opened(repo).fleet.refresh(layout.utc_now())
    with pytest.raises(RejectedError, match="releases") as caught:
        again(tmp_path, FolderFiles(repo), in_1970).desired()
    assert caught.value.code == "trust-expired"
    repository.refresh(repo)
    again(tmp_path, FolderFiles(repo), in_1970).desired()


def test_a_clock_in_2100_does_no_lasting_harm(judge, repo, tmp_path):
    """Nothing new is taken while it is wrong; once it is right again, everything is as before."""
    before = judge.desired()
    with pytest.raises(RejectedError) as caught:
        again(tmp_path, FolderFiles(repo), lambda: datetime(2100, 1, 1, tzinfo=UTC)).desired()
    assert caught.value.code == "trust-expired"
    assert again(tmp_path, FolderFiles(repo)).desired() == before


def test_a_new_device_s_floor_is_its_anchor_s(repo, tmp_path):
    """Before it has seen anything else."""
    floor = TimeFloor(tmp_path / "device" / "trust", tmp_path / "store", in_1970)
    assert floor.late_floor() == floor.floor()
    assert layout.utc_now() - floor.now() < timedelta(minutes=5)
    nowhere = TimeFloor(tmp_path / "nowhere", tmp_path / "store", in_1970)
    assert nowhere.late_floor() is None


def test_trust_without_a_source_uses_the_held_files(judge, tmp_path):
    """The metadata suffices to know a release; its manifest is not among what is held."""
    digest = manifest_digest(judge.desired())
    held = again(tmp_path, HeldFiles(tmp_path / "store"))
    with pytest.raises(TransportError, match=r"targets.* doesn't exist"):
        held.manifest(STEM, digest)
    with pytest.raises(TransportError, match="doesn't list"):
        held.manifest("sample-9.9-rpi4-onnx", digest)


def test_trust_without_any_file_is_a_transport_error(tmp_path, judge):
    """The broker may have it later."""
    with pytest.raises(TransportError) as caught:
        again(tmp_path, FolderFiles(tmp_path / "nowhere")).desired()
    assert caught.value.code == "trust-unavailable"


def test_trust_without_anchors_is_a_usage_error(tmp_path, repo):
    """With the remedy."""
    shutil.rmtree(tmp_path / "device" / "trust")
    with pytest.raises(UsageError) as caught:
        again(tmp_path, FolderFiles(repo)).desired()
    assert caught.value.code == "config-invalid"


def test_remains_of_a_power_cut_are_cleared_away(judge, tmp_path):
    """A copy that was worked in, and a link that wasn't put in its place."""
    judge.desired()
    folder = tmp_path / "store" / "trusted" / "fleet"
    (folder / "tmpcopy").mkdir()
    (folder / "tmpcopy" / "timestamp.json").write_bytes(b"half")
    (folder / "next").symlink_to("tmpcopy")
    judge.desired()
    names = {path.name for path in folder.iterdir()}
    assert not names & {"tmpcopy", "next"}
    assert len(names) == 2, "the link and the present one"


class Deadly(FolderFiles):
    """A source that ends the process when it is asked for a target."""

    def read(self, repo, file):
        """See `TrustSource.read`."""
        return os._exit(0) if file.startswith(trust.TARGETS_DIR) else super().read(repo, file)


def test_remains_of_a_kill_during_a_download_are_cleared_away(judge, repo, tmp_path):
    """A device is switched off while it waits for a file, for years."""
    judge.desired()
    release(repo, "1.1")
    if (child := os.fork()) == 0:
        again(tmp_path, Deadly(repo)).desired()
    os.waitpid(child, 0)
    judge.desired()
    trusted = tmp_path / "store" / "trusted"
    assert {path.name for path in trusted.iterdir()} == {"fleet", "releases"}
    assert [len(list(folder.iterdir())) for folder in trusted.iterdir()] == [2, 2], "the link and the present one"


def test_a_store_that_can_t_be_written_is_a_device_error(judge, tmp_path):
    """Not a traceback."""
    (tmp_path / "store").write_bytes(b"a file where the folder should be")
    with pytest.raises(DeviceError) as caught:
        judge.desired()
    assert caught.value.code == "store-failed"


def test_withdrawn_release_when_the_fleet_key_deploys_it_is_refused(judge, repo, tmp_path):
    """Without the release key a thief can deploy it, but not undo the withdrawal; also after a restart."""
    digest = manifest_digest(judge.desired())
    release(repo, "1.1")
    judge.desired()
    assert judge.withdrawn() == frozenset()
    repository.withdraw(repo, "sample", "1.0")
    stolen = repository.opened(repo)
    (repo / "keys" / "release.pem").unlink()
    old = msgspec.structs.replace(judge.desired().deployments[0], id="thief", version="1.0")
    bundle = msgspec.structs.replace(old.bundles[0], manifest_sha256=digest)
    thief = msgspec.structs.replace(stolen.document(), deployments=(msgspec.structs.replace(old, bundles=(bundle,)),))
    stolen.write_document(thief, layout.utc_now())
    for judging in (judge, again(tmp_path, FolderFiles(repo))):
        assert judging.desired().deployments[0].id == "thief"
        assert judging.withdrawn() == {STEM}
        with pytest.raises(RejectedError) as caught:
            judging.manifest(STEM, digest)
        assert caught.value.code == "release-withdrawn"
    with pytest.raises(UsageError, match="release key"):
        repository.withdraw(repo, "sample", "1.0", undo=True)


def test_withdrawal_when_undone_lets_the_release_be_installed(judge, repo):
    """By the release key."""
    digest = manifest_digest(judge.desired())
    repository.withdraw(repo, "sample", "1.0")
    repository.withdraw(repo, "sample", "1.0", undo=True)
    judge.desired()
    assert judge.withdrawn() == frozenset()
    assert chunks.sha256(judge.manifest(STEM, digest)) == digest


def test_withdrawal_is_not_undone_by_newer_signatures_over_older_releases(judge, repo, tmp_path):
    """A stolen fleet key signs snapshots and timestamps: of any number, but not over what the device has seen."""
    judge.desired()
    shutil.copytree(repo, old := tmp_path / "old")
    repository.withdraw(repo, "sample", "1.0")
    judge.desired()
    (old / "keys" / "release.pem").unlink()
    for _ in range(3):
        repository.refresh(old)
    with pytest.raises(RejectedError) as caught:
        again(tmp_path, FolderFiles(old)).desired()
    assert caught.value.code == "rollback-attempt"
    assert again(tmp_path, FolderFiles(repo)).withdrawn() == {STEM}

"""The repository on disk: signed, whole after any crash, and accepted by python-tuf's own client."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from tuf.api.exceptions import DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from edgeml import repository
from edgeml.repository import layout, passphrase, renewal
from edgeml_core import card, chunks, desired, trust, wire_keys
from edgeml_core.errors import RejectedError, UsageError
from edgeml_io import files
from support import samples


class FolderFetcher(FetcherInterface):
    """python-tuf's port, reading a folder: `file:///FOLDER/...`."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(urlsplit(url).path)
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        return iter([path.read_bytes()])


class Client:
    """What a device does with one TUF repository: python-tuf's updater, with its own cache."""

    def __init__(self, repo: Path, name: str, cache: Path) -> None:
        self.folder, self.cache = repo / name, cache / name
        (self.cache / "targets").mkdir(parents=True)
        self.anchor = (self.folder / "metadata" / "1.root.json").read_bytes()

    def refreshed(self) -> Updater:
        """The updater after a refresh."""
        updater = Updater(
            metadata_dir=str(self.cache),
            metadata_base_url=f"file://{self.folder}/metadata/",
            target_dir=str(self.cache / "targets"),
            target_base_url=f"file://{self.folder}/targets/",
            fetcher=FolderFetcher(),
            bootstrap=self.anchor,
        )
        updater.refresh()
        return updater

    def target(self, path: str) -> bytes | None:
        """A target's content, fetched and checked."""
        updater = self.refreshed()
        found = updater.get_targetinfo(path)
        return None if found is None else Path(updater.download_target(found)).read_bytes()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repository.init(tmp_path / "repo", fleet="farm")
    return tmp_path / "repo"


def a_bundle_file(folder: Path, replaced: dict[str, bytes] | None = None, **changes) -> Path:
    """A bundle file of the samples, with some files' content and fields of the manifest replaced."""
    content = samples.FILES | (replaced or {})
    entries = [samples.bundle.describe(path, io.BytesIO(data)) for path, data in sorted(content.items())]
    changes = {"files": tuple(entries)} | changes
    of = samples.a_manifest(**changes)
    path = folder / f"{of.stem}.edgeml"
    path.write_bytes(samples.a_bundle(of, content))
    return path


def test_a_client_accepts_a_new_repository(repo: Path, tmp_path: Path):
    """python-tuf's updater takes both repositories from their first root, and gets the fleet document."""
    document = desired.decode(Client(repo, trust.FLEET, tmp_path / "device").target(desired.FLEET_DOCUMENT))
    head = str(repository.opened(repo).audit.head())
    assert document == desired.FleetDocument(fleet="farm", deployments=(), audit=head)
    Client(repo, trust.RELEASES, tmp_path / "device").refreshed()


def test_what_is_published_reaches_a_client(repo: Path, tmp_path: Path):
    """A published bundle's manifest is a target, and each chunk it lists is in the store."""
    bundle = a_bundle_file(tmp_path)
    (published,) = repository.publish(repo, [bundle])
    of = samples.a_manifest()
    manifest = Client(repo, trust.RELEASES, tmp_path / "device").target(trust.manifest_target(of.stem))
    assert manifest is not None
    assert chunks.sha256(manifest) == published.manifest_sha256
    store = repository.opened(repo).chunks
    stored = [chunks.from_wire(store.wire(wire_keys.chunk_id(digest)), digest) for digest in of.files[-1].chunks]
    assert b"".join(stored) == samples.FILES["model.weights"]
    assert published.added
    assert published.stored_bytes > 0


def test_measurements_are_signed_beside_the_manifest(repo: Path, tmp_path: Path):
    """Measurements next to the bundle become a target; new ones of a release that is out can follow."""
    bundle = a_bundle_file(tmp_path)
    client = Client(repo, trust.RELEASES, tmp_path / "device")
    target = trust.measurements_target(samples.a_manifest().stem)
    repository.publish(repo, [bundle])
    assert client.target(target) is None
    measured = samples.a_measurement(bundle)
    bundle.with_name(bundle.stem + card.MEASUREMENTS_SUFFIX).write_bytes(card.encode_measurements(measured))
    (again,) = repository.publish(repo, [bundle])
    assert client.target(target) == card.encode_measurements(measured)
    assert not again.added


def test_measurements_of_another_bundle_are_refused(repo: Path, tmp_path: Path):
    """Measurements that name another manifest: digest-mismatch, and nothing is published."""
    bundle = a_bundle_file(tmp_path)
    other = msgspec.structs.replace(samples.a_measurement(bundle), manifest_sha256="0" * 64)
    bundle.with_name(bundle.stem + card.MEASUREMENTS_SUFFIX).write_bytes(card.encode_measurements(other))
    with pytest.raises(RejectedError) as caught:
        repository.publish(repo, [bundle])
    assert caught.value.code == "digest-mismatch"
    assert repository.releases(repository.opened(repo)) == []


def test_publishing_the_same_again_changes_nothing(repo: Path, tmp_path: Path):
    """The same bundle twice: no new version of any metadata, no bytes stored."""
    bundle = a_bundle_file(tmp_path)
    repository.publish(repo, [bundle])
    before = snapshot_of(repo)
    (again,) = repository.publish(repo, [bundle])
    assert snapshot_of(repo) == before
    assert not again.added
    assert again.stored_bytes == 0


def test_a_release_never_changes(repo: Path, tmp_path: Path):
    """Other content under a released name and version is release-exists, and nothing is signed."""
    repository.publish(repo, [a_bundle_file(tmp_path)])
    before = metadata_of(repo)
    with pytest.raises(UsageError) as caught:
        repository.publish(repo, [a_bundle_file(tmp_path, {"model.onnx": b"another graph"})])
    assert caught.value.code == "release-exists"
    assert metadata_of(repo) == before


def test_two_contents_of_one_release_in_one_call_are_refused(repo: Path, tmp_path: Path):
    """Two files that claim the same release can't be published together."""
    (tmp_path / "other").mkdir()
    both = [a_bundle_file(tmp_path), a_bundle_file(tmp_path / "other", {"model.onnx": b"another graph"})]
    with pytest.raises(UsageError) as caught:
        repository.publish(repo, both)
    assert caught.value.code == "release-exists"
    assert repository.releases(repository.opened(repo)) == []


def test_chunks_that_versions_share_are_stored_once(repo: Path, tmp_path: Path):
    """A second version with the same weights stores only what differs."""
    (first,) = repository.publish(repo, [a_bundle_file(tmp_path)])
    (second,) = repository.publish(repo, [a_bundle_file(tmp_path, {"model.onnx": b"graph 2"}, version="1.1")])
    assert first.stored_bytes > 100
    assert second.stored_bytes == len(chunks.to_wire(b"graph 2"))


@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_a_damaged_bundle_is_refused(repo: Path, tmp_path: Path, position: float):
    """A flipped byte anywhere in a bundle: RejectedError, and nothing is published."""
    bundle = a_bundle_file(tmp_path)
    data = bytearray(bundle.read_bytes())
    data[int(len(data) * position)] ^= 1
    bundle.write_bytes(data)
    with pytest.raises(RejectedError):
        repository.publish(repo, [bundle])
    assert repository.releases(repository.opened(repo)) == []


def test_a_whole_file_digest_that_lies_is_refused(repo: Path, tmp_path: Path):
    """Right chunks under a wrong digest of the file are a digest-mismatch."""
    of = samples.a_manifest()
    liar = msgspec.structs.replace(of.files[0], sha256="0" * 64)
    with pytest.raises(RejectedError) as caught:
        repository.publish(repo, [a_bundle_file(tmp_path, files=(liar, *of.files[1:]))])
    assert caught.value.code == "digest-mismatch"


def test_releases_come_in_the_order_of_publication(repo: Path, tmp_path: Path):
    """Order is that of publication, not of names or versions."""
    for version in ("2.0", "10.0", "1.0"):
        repository.publish(repo, [a_bundle_file(tmp_path, version=version)])
    found = repository.releases(repository.opened(repo))
    assert [release.manifest.version for release in found] == ["2.0", "10.0", "1.0"]


@pytest.mark.parametrize("survivors", range(4))
def test_a_crash_before_the_last_rename_leaves_the_old_state(repo: Path, tmp_path: Path, monkeypatch, survivors: int):
    """Cut off before each of the four files of a change, a client sees the old state whole; repeating it succeeds."""
    client = Client(repo, trust.RELEASES, tmp_path / "device")
    bundle, target = a_bundle_file(tmp_path), trust.manifest_target(samples.a_manifest().stem)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", dying_after(survivors))
        with pytest.raises(UsageError, match="cut off") as caught:
            repository.publish(repo, [bundle])
    assert caught.value.code == "repo-invalid"
    assert client.target(target) is None
    repository.publish(repo, [bundle])
    assert client.target(target) is not None


def dying_after(count: int):
    """`files.write` that fails after `count` files, as a full disk or a power cut would."""
    written = []

    def write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
        if len(written) == count:
            raise OSError("cut off")
        written.append(path)
        files.write_unsynced(path, data, mode=mode)

    return write


def test_refresh_makes_an_expired_repository_fresh(repo: Path, tmp_path: Path):
    """A client refuses an expired timestamp; after a refresh it accepts, and the dates are a month away."""
    old = tmp_path / "old"
    repository.init(old, now=datetime.now(UTC) - timedelta(days=40))
    client = Client(old, trust.FLEET, tmp_path / "device")
    with pytest.raises(ExpiredMetadataError):
        client.refreshed()
    assert renewal.is_due(repository.opened(old), datetime.now(UTC))
    refreshed = repository.refresh(old)
    client.refreshed()
    assert [it.repository for it in refreshed] == [trust.RELEASES, trust.FLEET]
    assert not renewal.is_due(repository.opened(old), datetime.now(UTC))


def test_an_operator_may_say_how_long_signatures_last(repo: Path):
    """In repo.toml, in days; what isn't named lasts as usual, and is renewed when half of it is over."""
    with (repo / layout.CONFIG_FILE).open("a") as config:
        config.write("[days]\ntimestamp = 2\nsnapshot = 4\n")
    now = datetime.now(UTC)
    (releases, _) = repository.refresh(repo, now=now)
    days = {role: round((expires - now) / timedelta(days=1)) for role, expires in releases.expires.items()}
    assert days == {"root": 3650, "targets": 365, "snapshot": 4, "timestamp": 2}
    opened = repository.opened(repo)
    assert not renewal.is_due(opened, now + timedelta(hours=23))
    assert renewal.is_due(opened, now + timedelta(hours=25))


@pytest.mark.parametrize("days", ["timestamp = 0", "timestamp = true", "snapshots = 3", "timestamp = '3'"])
def test_what_is_no_lifetime_is_refused(repo: Path, days: str):
    """With what may stand there."""
    with (repo / layout.CONFIG_FILE).open("a") as config:
        config.write(f"[days]\n{days}\n")
    with pytest.raises(UsageError, match=r"\[days\]") as caught:
        repository.refresh(repo)
    assert caught.value.code == "repo-invalid"


@pytest.mark.parametrize(
    "url", ['"chunks"', '"s3://id:secret@bucket/farm"', '"s3://bucket/"', "true", '"https://bucket/farm"']
)
def test_what_is_no_place_for_chunks_is_refused(repo: Path, url: str):
    """In the form that it should have; the value isn't repeated, as it may have credentials."""
    config = repo / layout.CONFIG_FILE
    config.write_text(f"chunks = {url}\n{config.read_text()}")
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX") as caught:
        repository.opened(repo)
    assert (caught.value.code, "secret" in str(caught.value)) == ("repo-invalid", False)


def test_chunks_in_s3_need_their_extra(repo: Path, monkeypatch: pytest.MonkeyPatch):
    """It is named; commands that touch no chunk work without it."""
    config = repo / layout.CONFIG_FILE
    config.write_text(f'chunks = "s3://bucket/farm"\n{config.read_text()}')
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "edgeml.repository.bucket", raising=False)
    opened = repository.opened(repo)
    assert repository.releases(opened) == []
    with pytest.raises(UsageError) as caught:
        _ = opened.chunks
    assert (caught.value.code, "fleet-s3" in caught.value.hint) == ("extra-missing", True)


def test_refresh_renews_targets_when_half_their_time_is_over(repo: Path):
    """Targets are signed anew only when it is time, and only where their key is."""
    before = repository.refresh(repo)
    (repo / "keys" / "release.pem").unlink()
    later = repository.refresh(repo, now=datetime.now(UTC) + timedelta(days=200))
    assert later[0].expires["targets"] == before[0].expires["targets"]
    assert later[1].expires["targets"] > before[1].expires["targets"]


def test_the_release_key_can_lie_elsewhere(repo: Path, tmp_path: Path):
    """Without the release key enrolling works; publishing names the key that is missing."""
    (repo / "keys" / "release.pem").unlink()
    repository.enroll(repo, "pi-1", labels={}, broker_url=None, out_dir=tmp_path / "pi-1")
    with pytest.raises(UsageError) as caught:
        repository.publish(repo, [a_bundle_file(tmp_path)])
    assert caught.value.code == "repo-invalid"
    assert "release.pem" in caught.value.hint


def test_another_key_in_the_place_of_the_fleet_key_is_noticed(repo: Path, tmp_path: Path):
    """A key that devices don't trust signs nothing."""
    repository.init(tmp_path / "other")
    (tmp_path / "other" / "keys" / "fleet.pem").replace(repo / "keys" / "fleet.pem")
    with pytest.raises(UsageError) as caught:
        repository.refresh(repo)
    assert caught.value.code == "repo-invalid"


def test_keys_are_private_and_can_be_encrypted(tmp_path: Path, monkeypatch):
    """Keys have mode 0600 in a folder of mode 0700; made with a passphrase, they need it."""
    monkeypatch.setenv(passphrase.VARIABLE, "correct horse")
    repository.init(tmp_path / "repo")
    pem = tmp_path / "repo" / "keys" / "fleet.pem"
    assert (pem.stat().st_mode & 0o777, pem.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"ENCRYPTED" in pem.read_bytes()
    repository.refresh(tmp_path / "repo")
    for wrong in ("wrong", ""):
        monkeypatch.setenv(passphrase.VARIABLE, wrong)
        with pytest.raises(UsageError) as caught:
            repository.refresh(tmp_path / "repo")
        assert passphrase.VARIABLE in caught.value.hint


def test_damaged_metadata_is_noticed(repo: Path):
    """Any role's file with a flipped byte: repo-invalid, not a traceback."""
    for name in ("1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"):
        path = repo / trust.RELEASES / "metadata" / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"version":1', b'"version":2', 1))
        with pytest.raises(UsageError) as caught:
            repository.releases(repository.opened(repo))
        assert caught.value.code == "repo-invalid"
        path.write_bytes(whole)


def test_a_damaged_target_is_noticed(repo: Path, tmp_path: Path):
    """A manifest on disk that isn't what was signed is repo-invalid."""
    repository.publish(repo, [a_bundle_file(tmp_path)])
    (path,) = (repo / trust.RELEASES / "targets").iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UsageError) as caught:
        repository.releases(repository.opened(repo))
    assert caught.value.code == "repo-invalid"


def test_a_damaged_chunk_is_never_handed_out(repo: Path, tmp_path: Path):
    """A chunk file with a flipped byte, or none at all, is a digest-mismatch."""
    repository.publish(repo, [a_bundle_file(tmp_path)])
    key = wire_keys.chunk_id(samples.a_manifest().files[-1].chunks[0])
    path = repo / "chunks" / key[:2] / key
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for _ in range(2):
        with pytest.raises(RejectedError) as caught:
            repository.opened(repo).chunks.wire(key)
        assert caught.value.code == "digest-mismatch"
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\0damaged"), lambda path: path.unlink()])
def test_publishing_again_mends_a_chunk(repo: Path, tmp_path: Path, damage):
    """A chunk that is damaged or lost is replaced; the others are not written again."""
    bundle = a_bundle_file(tmp_path)
    repository.publish(repo, [bundle])
    key = wire_keys.chunk_id(samples.a_manifest().files[-1].chunks[0])
    path = repo / "chunks" / key[:2] / key
    whole = path.read_bytes()
    damage(path)
    (again,) = repository.publish(repo, [bundle])
    assert (path.read_bytes(), again.stored_bytes) == (whole, len(whole))


def test_superseded_files_are_kept_for_a_while_only(repo: Path):
    """Files of earlier states are listed as superseded; their number is bounded; present ones are never removed."""
    signed = repository.opened(repo).fleet
    for _ in range(40):
        repository.refresh(repo)
    superseded = signed.superseded()
    assert 0 < len(superseded) <= 64
    assert "metadata/40.snapshot.json" in superseded
    assert not set(superseded) & set(signed.files())
    assert all((signed.folder / name).is_file() for name in signed.files())


def test_files_are_in_the_order_to_announce_them(repo: Path, tmp_path: Path):
    """Targets come before the metadata that names them, the timestamp last."""
    repository.publish(repo, [a_bundle_file(tmp_path)])
    files = repository.opened(repo).releases.files()
    assert files[0].startswith("targets/")
    assert files[-4:] == [
        "metadata/1.root.json",
        "metadata/2.targets.json",
        "metadata/2.snapshot.json",
        "metadata/timestamp.json",
    ]


@pytest.mark.parametrize("content", [None, "", "fleet = 'Not A Name'", "fleet"])
def test_what_is_no_repository_is_refused(tmp_path: Path, content: str | None):
    """A folder without a proper repo.toml is repo-invalid, with a remedy."""
    if content is not None:
        (tmp_path / layout.CONFIG_FILE).write_text(content)
    with pytest.raises(UsageError) as caught:
        repository.opened(tmp_path)
    assert caught.value.code == "repo-invalid"
    assert "repo init" in caught.value.hint


def test_init_keeps_what_was_there(tmp_path: Path):
    """A folder with content is never made a repository; an empty one is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UsageError):
        repository.init(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    repository.init(tmp_path / "empty")
    assert repository.opened(tmp_path / "empty").fleet_name == layout.DEFAULT_FLEET


def test_two_writers_wait_for_each_other(repo: Path, tmp_path: Path):
    """Processes that enroll at the same time all succeed, and all their devices are signed."""
    enroll = [sys.executable, "-m", "edgeml", "device", "enroll", "--repo", str(repo)]
    commands = [[*enroll, f"pi-{number}", "-o", str(tmp_path / str(number))] for number in range(4)]
    workers = [subprocess.Popen(command) for command in commands]
    assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
    assert len(repository.opened(repo).records.all()) == 4


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metadata_of(repo: Path) -> dict[str, bytes]:
    """Every file of both TUF repositories."""
    return snapshot_of(repo / trust.RELEASES) | snapshot_of(repo / trust.FLEET)


def test_a_write_leaves_no_debris(tmp_path: Path):
    """A write that fails leaves neither the temporary file nor a changed one."""
    target = tmp_path / "file"
    files.write(target, b"old")
    target_folder_mode = tmp_path.stat().st_mode
    with pytest.raises(TypeError):
        files.write(target, "not bytes")  # type: ignore[arg-type]
    assert snapshot_of(tmp_path) == {str(target): b"old"}
    assert tmp_path.stat().st_mode == target_folder_mode


def test_a_client_that_saw_newer_metadata_refuses_older(repo: Path, tmp_path: Path):
    """A replayed older timestamp is refused by who has seen the newer one."""
    client = Client(repo, trust.FLEET, tmp_path / "device")
    old = (repo / trust.FLEET / "metadata" / "timestamp.json").read_bytes()
    repository.refresh(repo)
    client.refreshed()
    (repo / trust.FLEET / "metadata" / "timestamp.json").write_bytes(old)
    with pytest.raises(RepositoryError) as caught:
        client.refreshed()
    assert trust.translate(caught.value, trust.FLEET).code == "rollback-attempt"

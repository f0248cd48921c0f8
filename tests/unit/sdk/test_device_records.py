"""The devices' records in a repository: relabelled, revoked, replaced, signed again; the document doesn't grow."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from edgeml import Repository, repository
from edgeml.repository import NewKeys, layout
from edgeml_core import desired, records
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.errors import RejectedError, UsageError


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """A repository with two devices."""
    made = Repository.init(tmp_path / "repo", fleet="farm", passphrase="")
    for device, site in (("pi-1", "barn"), ("pi-2", "mill")):
        made.enroll(device, labels={"site": site}, output=tmp_path / device)
    return made


def verified(repo: Repository, device: str) -> records.DeviceRecord:
    """A device's record, as the device verifies it."""
    opened = repository.opened(repo.path)
    line = opened.records.encoded([device])[device]
    return records.verified(line, opened.fleet.load().root.signed, fleet="farm", device=device)


def test_enrolling_writes_the_same_record_to_the_device_and_the_repository(repo: Repository, tmp_path: Path):
    """And nothing that other devices read."""
    opened = repository.opened(repo.path)
    before = opened.fleet.version()
    repo.enroll("pi-3", labels={"site": "barn"}, output=tmp_path / "pi-3")
    assert (tmp_path / "pi-3" / "trust" / "record.json").read_bytes() == opened.records.encoded(["pi-3"])["pi-3"]
    assert verified(repo, "pi-3").labels == {"site": "barn"}
    assert opened.fleet.version() == before


def test_relabel_raises_the_version_of_one_record(repo: Repository):
    """Labels are added, replaced and removed; the same labels again change nothing."""
    before = repository.opened(repo.path).fleet.version()
    assert repo.relabel("pi-1", {"ring": "early", "site": "mill"}).labels == {"site": "mill", "ring": "early"}
    assert repo.relabel("pi-1", removed=["ring"]).version == 3
    assert repo.relabel("pi-1", {"site": "mill"}).version == 3
    assert (verified(repo, "pi-1").labels, verified(repo, "pi-1").version) == ({"site": "mill"}, 3)
    assert repo.device("pi-2").version == 1
    assert repository.opened(repo.path).fleet.version() == before


def test_revoked_device_is_in_no_deployment_until_it_is_replaced(repo: Repository, tmp_path: Path):
    """Its id stays taken, so that no older record of it counts again."""
    document = repository.opened(repo.path).document()
    everyone = Deployment(id="d", name="m", version="1", selector="", percent=100.0, bundles=())
    repository.opened(repo.path).write_document(
        msgspec.structs.replace(document, deployments=(everyone,)), layout.utc_now()
    )
    assert repo.revoke("pi-1").version == repo.revoke("pi-1").version == 2
    assert repo.deployments_of("pi-1") == []
    assert list(repository.opened(repo.path).records.enrolled()) == ["pi-2"]
    with pytest.raises(UsageError, match="revoked"):
        repo.relabel("pi-1", {"site": "a"})
    with pytest.raises(UsageError) as caught:
        repo.enroll("pi-1", output=tmp_path / "again")
    assert caught.value.code == "device-exists"
    repo.replace("pi-1", output=tmp_path / "successor")
    assert repo.deployments_of("pi-1") == [everyone]
    assert repo.device("pi-1") == repository.EnrolledDevice(
        id="pi-1", labels={"site": "barn"}, groups=(), version=3, revoked=False
    )
    line = (tmp_path / "successor" / "trust" / "record.json").read_bytes()
    assert records.decode(line).signed == verified(repo, "pi-1")


def test_replaced_device_keeps_its_groups(repo: Repository, tmp_path: Path):
    """Their keys are in the new folder."""
    repo.enroll("pi-3", groups=["clinic"], output=tmp_path / "pi-3")
    repo.replace("pi-3", output=tmp_path / "new")
    key = Path("groups", "clinic.key")
    assert (tmp_path / "new" / key).read_bytes() == (tmp_path / "pi-3" / key).read_bytes()


def test_replaced_relay_stays_one_and_its_old_certificate_is_revoked(repo: Repository, tmp_path: Path):
    """A folder that can't be written costs no certificate."""
    broker = "mqtts://broker.example"
    repo.enroll("gate", broker=broker, output=tmp_path / "gate", relay=True)
    folder = repository.opened(repo.path)
    with pytest.raises(UsageError, match="can't be written"):
        repo.replace("gate", broker=broker, output=Path("/proc/none"))
    assert [it.revoked for it in folder.enrollments.certificates("gate")] == [False]
    repo.replace("gate", broker=broker, output=tmp_path / "new")
    known = folder.enrollments.certificates("gate")
    assert sorted(it.revoked for it in known) == [False, True]
    assert {it.role for it in known} == {"relay"}
    assert (tmp_path / "new" / "device.pem").read_bytes() != (tmp_path / "gate" / "device.pem").read_bytes()
    acts = [it.act for it in folder.audit.entries() if it.subject == "gate"]
    assert acts == ["enroll", "replace", "replace", "revoke-certificate"]


@pytest.mark.parametrize("act", ["relabel", "revoke", "device", "deployments_of"])
def test_unknown_device_is_named(repo: Repository, act: str):
    """A typing error changes nothing."""
    with pytest.raises(UsageError) as caught:
        getattr(repo, act)("pi-9")
    assert caught.value.code == "device-unknown"


def test_labels_that_can_t_be_signed_change_nothing(repo: Repository):
    """A label that isn't there; more than a record may have."""
    for change in ({"removed": ["ring"]}, {"labels": {f"key-{number}": "v" * 63 for number in range(120)}}):
        with pytest.raises(UsageError) as caught:
            repo.relabel("pi-1", **change)
        assert caught.value.code == "usage"
    assert repo.device("pi-1").version == 1


def test_rotation_signs_every_record_by_the_old_and_the_new_keys(repo: Repository, tmp_path: Path):
    """A device trusts them before it sees the new root and after; the next rotation drops the oldest signature."""
    first = repository.opened(repo.path).fleet.load().root.signed
    repo.rotate("fleet", NewKeys())
    line = repository.opened(repo.path).records.encoded(["pi-1"])["pi-1"]
    for root in (first, repository.opened(repo.path).fleet.load().root.signed):
        assert records.verified(line, root, fleet="farm", device="pi-1").version == 1
    repo.rotate("fleet", NewKeys(files=2, threshold=2))
    assert verified(repo, "pi-2").version == 1
    with pytest.raises(RejectedError, match="signed by 0/1 keys"):
        records.verified(
            repository.opened(repo.path).records.encoded(["pi-1"])["pi-1"], first, fleet="farm", device="pi-1"
        )
    repo.relabel("pi-1", {"site": "a"})
    assert len(records.decode(repository.opened(repo.path).records.encoded(["pi-1"])["pi-1"]).signatures) == 2
    for path in (repo.path / "keys").glob("fleet-*.pem"):
        shutil.move(path, tmp_path)
        break
    with pytest.raises(UsageError) as caught:
        repo.relabel("pi-1", {"site": "b"})
    assert caught.value.code == "repo-invalid"
    assert repo.device("pi-1").labels == {"site": "a"}


def test_records_are_renewed_when_half_their_time_is_over(repo: Repository):
    """With a new version, by the host's usual renewal; a revoked device's isn't."""
    opened, now = repository.opened(repo.path), layout.utc_now()
    later = now + opened.fleet.lifetimes["targets"] / 2 + timedelta(hours=1)
    repo.revoke("pi-2")
    assert not opened.records.is_due(now)
    assert opened.records.is_due(later)
    repository.refresh(repo.path, now=later)
    assert not opened.records.is_due(later)
    assert (repo.device("pi-1").version, repo.device("pi-2").version) == (2, 2)
    assert verified(repo, "pi-1").expires == opened.records.expiry(later)
    repository.refresh(repo.path, now=later)
    assert repo.device("pi-1").version == 2


def test_unchanged_files_are_not_read_again(repo: Repository, monkeypatch):
    """A host looks each second."""
    opened = repository.opened(repo.path)
    before = opened.records.all()
    stamp = opened.records.stamp()
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    assert opened.records.all() == before
    assert not read
    repo.relabel("pi-1", {"site": "a"})
    read.clear()
    changed = opened.records.all()
    assert read == [records.file_of("pi-1")]
    assert [device for device in changed if changed[device] != before[device]] == ["pi-1"]
    assert opened.records.stamp() != stamp


def test_damaged_file_is_named(repo: Repository):
    """Not taken for a fleet without devices."""
    path = repo.path / "devices" / records.file_of("pi-1")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match=path.name) as caught:
        repo.devices()
    assert caught.value.code == "repo-invalid"


def a_document(models: int) -> FleetDocument:
    """A document that deploys models to four kinds of boards each."""
    bundles = tuple(
        Wanted(
            target=target,
            format="onnx",
            arch="x86_64",
            cpu_features=("sse4_1", "sse4_2", "ssse3", "avx", "f16c", "fma", "avx2"),
            manifest_sha256=f"{number:064x}",
        )
        for number, target in enumerate(("rpi4", "rpi5", "x86-gateway", "x86-vnni"))
    )
    return FleetDocument(
        fleet="farm",
        deployments=tuple(
            Deployment(
                id=f"m{number}-1-7",
                name=f"m{number}",
                version="1",
                selector="ring=1",
                percent=50.0,
                bundles=bundles,
            )
            for number in range(models)
        ),
    )


@pytest.mark.parametrize("devices", [5000, 100_000])
def test_document_stays_small_whatever_the_number_of_devices(devices: int):
    """Each device finds its part by its own record; twelve models for four boards fit."""
    document = a_document(12)
    assert len(desired.encode(document)) <= desired.FLEET_DOCUMENT_MAX_BYTES == 16 * 1024
    every = devices // 5000
    reached = [
        name
        for name in (f"board-{number:06d}" for number in range(0, devices, every))
        if desired.wanted_by(document, name, {"ring": "1"}).keys() >= {"m0"}
    ]
    assert len(reached) == pytest.approx(2500, abs=200)
    assert desired.wanted_by(document, "board-000001", {"ring": "2"}) == {}


def test_longer_document_is_refused_with_its_size(repo: Repository):
    """No device would take it."""
    long = a_document(30)
    opened = repository.opened(repo.path)
    with pytest.raises(UsageError, match=r"would have 27\d{3} bytes, limit 16384"):
        opened.write_document(long, layout.utc_now())
    with pytest.raises(RejectedError, match="limit 16384"):
        desired.decode(desired.encode(long))

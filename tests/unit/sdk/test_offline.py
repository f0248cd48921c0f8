"""A site's copy of the repository: what is in it, how long it lasts, and that versions only grow."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from edgeml import repository
from edgeml.repository import offline
from edgeml.repository.deployments import deploy
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import UsageError
from support import samples

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two sites: barn wants version 1.0, mill 2.0."""
    repo = tmp_path / "repo"
    repository.init(repo, now=NOW)
    for device, site in (("b-1", "barn"), ("b-2", "barn"), ("m-1", "mill")):
        repository.enroll(
            repo, device, labels={"site": site}, broker_url=None, out_dir=tmp_path / device, now=NOW
        )  # fmt: skip
    for version, site in (("1.0", "barn"), ("2.0", "mill")):
        release(repo, version)
        deploy(repo, "sample", version, selector=f"site={site}", now=NOW)
    return repo


def release(repo: Path, version: str) -> None:
    """Publish a version whose weights no other has."""
    content = samples.FILES | {"model.weights": version.encode() * 40_000}
    entries = tuple(samples.bundle.describe(path, io.BytesIO(data)) for path, data in sorted(content.items()))
    bundle = repo.parent / f"{version}.edgeml"
    bundle.write_bytes(samples.a_bundle(samples.a_manifest(version=version, files=entries), content))
    repository.publish(repo, [bundle], now=NOW)


def held(folder: Path) -> set[str]:
    """The chunks in a copy."""
    return {path.name for path in (folder / "chunks").glob("*/*")}


def signed(folder: Path, name: str) -> tuple[int, datetime]:
    """A timestamp's version and when it expires."""
    metadata = Metadata.from_file(str(folder / name / "metadata" / "timestamp.json")).signed
    return metadata.version, metadata.expires


def test_a_copy_has_what_the_site_wants(repo: Path, tmp_path: Path):
    """Its chunks, whole and checked; none of another site; no key, and nothing that a device doesn't read."""
    copy = repository.export_site(repo, "barn", tmp_path / "stick", now=NOW)
    assert (copy.devices, len(copy.releases)) == (("b-1", "b-2"), 1)
    weights = [wire_keys.chunk_id(chunks.sha256(chunk)) for chunk in chunks.split(b"1.0" * 40_000)]
    assert set(weights) < held(tmp_path / "stick")
    other = [wire_keys.chunk_id(chunks.sha256(chunk)) for chunk in chunks.split(b"2.0" * 40_000)]
    assert not held(tmp_path / "stick") & set(other)
    assert {path.name for path in (tmp_path / "stick").iterdir()} == {"releases", "fleet", "devices", "chunks"}
    for path in (tmp_path / "stick" / "chunks").glob("*/*"):
        chunks.from_store(path.read_bytes(), path.name)


def test_a_copy_lasts_and_the_repository_is_newer(repo: Path, tmp_path: Path):
    """180 days in a version of its own; the repository's next state is newer and as short-lived as ever."""
    before = {name: signed(repo, name)[0] for name in ("releases", "fleet")}
    copy = repository.export_site(repo, "barn", tmp_path / "stick", now=NOW)
    assert copy.expires == NOW + offline.OFFLINE_LIFETIME
    for name, version in before.items():
        assert signed(tmp_path / "stick", name) == (version + 1, NOW + offline.OFFLINE_LIFETIME)
        assert signed(repo, name) == (version + 2, NOW + timedelta(days=30))


def test_a_copy_is_brought_up_to_date_in_place(repo: Path, tmp_path: Path):
    """The same folder again: the new release's chunks come, those of the old go."""
    repository.export_site(repo, "barn", tmp_path / "stick", now=NOW)
    before = held(tmp_path / "stick")
    deploy(repo, "sample", "2.0", selector="site=barn", now=NOW)
    copy = repository.export_site(repo, "barn", tmp_path / "stick", now=NOW)
    fresh = repository.export_site(repo, "barn", tmp_path / "fresh", now=NOW)
    assert [release.split("-")[1] for release in copy.releases] == ["2.0"]
    assert before != held(tmp_path / "stick") == held(tmp_path / "fresh")
    files = [path for path in (tmp_path / "stick" / "fleet").rglob("*") if path.is_file()]
    assert len(files) == len([path for path in (tmp_path / "fresh" / "fleet").rglob("*") if path.is_file()])
    assert fresh.size_bytes == copy.size_bytes


@pytest.mark.parametrize("used", ["repo", "b-1"])
def test_other_folders_are_left_alone(repo: Path, used: str):
    """Neither a repository nor a folder of something else is written over."""
    before = sorted((repo.parent / used).rglob("*"))
    with pytest.raises(UsageError, match="other content"):
        repository.export_site(repo, "barn", repo.parent / used, now=NOW)
    assert sorted((repo.parent / used).rglob("*")) == before


def test_a_site_without_devices_is_named(repo: Path, tmp_path: Path):
    """A misspelt site makes no empty stick."""
    with pytest.raises(UsageError, match="site=bern"):
        repository.export_site(repo, "bern", tmp_path / "stick", now=NOW)
    assert not (tmp_path / "stick").exists()


def test_a_full_stick_leaves_the_repository_fresh(repo: Path, tmp_path: Path, monkeypatch):
    """Signed to last is what the stick got, never what the network gets."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline, "_place", full)
    with pytest.raises(UsageError, match="No space"):
        repository.export_site(repo, "barn", tmp_path / "stick", now=NOW)
    assert {signed(repo, name)[1] for name in ("releases", "fleet")} == {NOW + timedelta(days=30)}

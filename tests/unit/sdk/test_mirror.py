"""A mirror for web servers: which files it has, and that a group's chunks are encrypted there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository import chunk_ids, layout, offline
from edgeml.repository.releases import releases
from edgeml.repository.withdrawals import withdraw
from edgeml_core import chunks, sealing
from edgeml_core.errors import UsageError
from support.tiny_models import tiny_onnx_bundle


def published(folder: Path, version: str, group: str | None = None) -> Path:
    """A repository with one more version."""
    repo = folder / "repo"
    if not repo.exists():
        repository.init(repo, secret="")
    path = folder / f"{version}.edgeml"
    tiny_onnx_bundle(path, version=version, seed=int(version), weights_bytes=100_000)
    repository.publish(repo, [path], group=group)
    return repo


def names(mirror: Path) -> set[str]:
    """The ids of the chunks there."""
    return {it.name for it in mirror.glob("??/*")}


def test_mirror_has_the_chunks_of_all_releases_but_withdrawn_ones(tmp_path: Path):
    """Each decodes to its digest; a second call changes no file, and removes those of withdrawn releases."""
    repo, mirror = published(tmp_path, "1"), tmp_path / "mirror"
    published(tmp_path, "2")
    folder = layout.opened(repo)
    wanted = frozenset().union(*map(chunk_ids.stored, releases(folder)))
    assert offline.mirror(repo, mirror) == len(wanted)
    assert names(mirror) == wanted
    for path in mirror.glob("??/*"):
        chunks.from_store(path.read_bytes(), path.name)
    times = {it: it.stat().st_mtime_ns for it in mirror.glob("??/*")}
    withdraw(repo, "tiny", "1")
    offline.mirror(repo, mirror)
    assert 0 < len(names(mirror)) < len(wanted)
    assert all(it.stat().st_mtime_ns == times[it] for it in mirror.glob("??/*"))


def test_chunks_of_a_group_are_encrypted_in_the_mirror(tmp_path: Path):
    """No file is under the id that the public manifest tells."""
    repo, mirror = published(tmp_path, "1", group="clinic"), tmp_path / "mirror"
    offline.mirror(repo, mirror)
    (release,) = releases(layout.opened(repo))
    assert names(mirror)
    assert names(mirror).isdisjoint(chunk_ids.stored(release))
    assert all(sealing.is_sealed(it.read_bytes()) for it in mirror.glob("??/*"))


def test_folder_with_other_content_is_left_alone(tmp_path: Path):
    """A web root has other files."""
    repo = published(tmp_path, "1")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("hello")
    with pytest.raises(UsageError):
        offline.mirror(repo, tmp_path / "www")
    assert (tmp_path / "www" / "index.html").exists()

"""The releases' files: resume by hashing, room, verification, names that mean whole, collection."""

import errno
import io
import os
import resource
from pathlib import Path

import pytest

from edgeml_agent.store import tuning
from edgeml_agent.store.releases import PARTIAL_SUFFIX, PartialRelease, Release, Releases
from edgeml_core import bundle, chunks
from edgeml_core import manifest as manifests
from edgeml_core.errors import DeviceError, RejectedError
from support.samples import a_manifest

FILES = {
    "golden.msgpack": b"golden",
    "empty/nothing.txt": b"",
    "model.onnx": b"graph",
    "model.weights": bytes(range(256)) * 1024 + b"tail",
}


def a_release(files=FILES, **changes):
    """A release of `files`."""
    entries = tuple(bundle.describe(path, io.BytesIO(content)) for path, content in sorted(files.items()))
    data = manifests.encode(a_manifest(files=entries, **changes))
    return Release(digest=chunks.sha256(data), manifest_bytes=data, manifest=manifests.decode(data))


def fill(partial, files=FILES):
    """Put all chunks."""
    for content in files.values():
        for chunk in chunks.split(content):
            partial.put(chunks.sha256(chunk), chunk)


@pytest.fixture
def releases(tmp_path):
    """Releases with plenty of room."""
    return Releases(tmp_path, max_bytes=1 << 30)


def whole(releases, release, files=FILES):
    """A release that was fetched and verified."""
    partial = releases.begin(release, keep=[])
    fill(partial, files)
    partial.verify()
    return releases.finish(partial)


def test_a_release_is_whole_after_all_chunks(releases):
    """Equal chunks are put once, files without chunks exist."""
    release = a_release()
    partial = releases.begin(release, keep=[])
    missing = partial.missing()
    assert len(missing) == len(set(missing)) == 4
    assert partial.size_of(missing) == release.manifest.size_bytes
    fill(partial)
    assert partial.missing() == []
    partial.verify()
    folder = releases.finish(partial)
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert releases.read(release.digest) == release


def test_releases_after_a_restart_keep_their_chunks(releases, tmp_path):
    """Nothing but the files is needed for it; a chunk that was damaged meanwhile is missing."""
    release, content = a_release(), FILES["model.weights"]
    partial = releases.begin(release, keep=[])
    fill(partial, {"model.weights": content, "golden.msgpack": b"golden"})
    with (partial.folder / "model.weights").open("r+b") as file:
        file.seek(len(content) - 1)
        file.write(b"?")
    again = Releases(tmp_path, 1 << 30).begin(release, keep=[])
    assert again.missing() == [chunks.sha256(b"graph"), chunks.sha256(b"tail")]


def test_a_file_that_contradicts_its_manifest_is_the_sender_s_fault(releases):
    """Right chunks, another digest of the whole."""
    files = {"golden.msgpack": b"golden", "model.onnx": b"graph"}
    lying = tuple(
        manifests.FileEntry(path=path, size_bytes=len(content), sha256="0" * 64, chunks=(chunks.sha256(content),))
        for path, content in files.items()
    )
    data = manifests.encode(a_manifest(files=lying))
    release = Release(digest=chunks.sha256(data), manifest_bytes=data, manifest=manifests.decode(data))
    partial = releases.begin(release, keep=[])
    fill(partial, files)
    with pytest.raises(RejectedError) as caught:
        partial.verify()
    assert caught.value.code == "digest-mismatch"


def test_releases_on_a_lossy_disk_are_a_device_error(releases):
    """The release is not blamed."""
    partial = releases.begin(a_release(), keep=[])
    fill(partial)
    (partial.folder / "model.onnx").write_bytes(b"grape")
    with pytest.raises(DeviceError, match="didn't keep 1 chunks"):
        partial.verify()


def test_only_finished_releases_have_the_name_of_whole_ones(releases):
    """After a power cut the name is what is believed."""
    release = a_release()
    partial = releases.begin(release, keep=[])
    fill(partial)
    assert partial.folder.suffix == PARTIAL_SUFFIX
    assert not releases.folder(release.digest).exists()
    folder = releases.finish(partial)
    assert folder == releases.folder(release.digest)
    assert not partial.folder.exists()
    assert releases.begin(release, keep=[]).missing() == []


def test_chunks_of_other_releases_are_copied(releases):
    """A new version with the same weights fetches only what differs."""
    old = a_release()
    whole(releases, old)
    files = FILES | {"model.onnx": b"other graph"}
    new = a_release(files, version="2.0")
    partial = releases.begin(new, keep=[old.digest])
    left = releases.reuse(partial, partial.missing(), [old.digest])
    assert left == [chunks.sha256(b"other graph")]
    fill(partial, {"model.onnx": b"other graph"})
    partial.verify()


def test_collection_keeps_what_must_stay(releases):
    """Whole and partial releases go, also those that a power cut left half removed."""
    kept, gone, half = (a_release(version=version) for version in ("1.0", "2.0", "3.0"))
    whole(releases, kept)
    partial = releases.begin(half, keep=[kept.digest])
    releases.collect({kept.digest, half.digest})
    assert partial.folder.exists()
    trash = releases.folder(gone.digest).with_suffix(".trash")
    (trash / "inner").mkdir(parents=True)
    releases.collect({kept.digest})
    assert [path.name for path in releases.folder(kept.digest).parent.iterdir()] == [releases.folder(kept.digest).name]


def test_releases_without_space_refuse_before_the_first_byte(tmp_path):
    """The quota counts what must stay; what may go makes room."""
    size = a_release().manifest.size_bytes
    needs = manifests.Needs(ram_bytes=0, disk_bytes=0)
    old, new = a_release(needs=needs), a_release(version="2.0", needs=needs)
    releases = Releases(tmp_path, max_bytes=size + 100_000)
    whole(releases, old)
    with pytest.raises(DeviceError) as caught:
        releases.begin(new, keep=[old.digest])
    assert caught.value.code == "disk-full"
    assert not list(releases.folder(old.digest).parent.glob(f"*{PARTIAL_SUFFIX}"))
    assert isinstance(releases.begin(new, keep=[]), PartialRelease)


def test_releases_without_space_discard_tuned_models(tmp_path):
    """It is made again; an update that finds no room is not."""
    releases = Releases(tmp_path, max_bytes=800_000)
    needs = manifests.Needs(ram_bytes=0, disk_bytes=0)
    old = a_release(needs=needs)
    new = a_release(FILES | {"model.weights": bytes(300_000)}, version="2.0", needs=needs)
    made = whole(releases, old) / tuning.FOLDER_NAME
    made.mkdir()
    (made / "model.prepared").write_bytes(bytes(range(256)) * 2000)
    assert isinstance(releases.begin(new, keep=[old.digest]), PartialRelease)
    assert not made.exists()
    assert releases.read(old.digest) == old


def test_a_release_larger_than_the_disk_is_refused(releases):
    """By what the file system says is free."""
    needs = manifests.Needs(ram_bytes=0, disk_bytes=1 << 60)
    generous = Releases(releases.folder("").parent, max_bytes=1 << 62)
    with pytest.raises(DeviceError, match="in reserve"):
        generous.begin(a_release(needs=needs), keep=[])


def test_a_damaged_manifest_is_noticed(releases):
    """It is read again at every start."""
    release = a_release()
    (whole(releases, release) / "manifest.json").write_bytes(release.manifest_bytes[:-1] + b" ")
    with pytest.raises(DeviceError, match="damaged"):
        releases.read(release.digest)
    with pytest.raises(DeviceError, match="store failed"):
        releases.read("0" * 64)


def test_chunk_that_the_disk_takes_in_part_is_an_error(releases):
    """The last write before a disk is full is a short one, without an error; the next one has it."""
    chunk = bytes(range(256)) * 256
    partial = releases.begin(a_release(FILES | {"model.weights": chunk}), keep=[])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(chunk) // 2, limits[1]))
    try:
        with pytest.raises(DeviceError):
            partial.put(chunks.sha256(chunk), chunk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_begin_of_a_release_that_the_disk_has_damaged_finds_what_is_missing(releases):
    """A check of the file system removes files, and the rest need not be fetched again."""
    release = a_release()
    folder = whole(releases, release)
    (folder / "model.weights").unlink()
    (folder / manifests.MANIFEST_NAME).write_bytes(b"rot")
    partial = releases.begin(release, keep=[release.digest])
    assert partial.missing() == list(dict.fromkeys(map(chunks.sha256, chunks.split(FILES["model.weights"]))))
    assert releases.read(release.digest) == release


def test_release_that_can_not_be_removed_keeps_no_update_away(releases, caplog, monkeypatch):
    """As a folder that the card has damaged: it stays, and what else may go is removed."""
    gone, other, new = (a_release(version=version) for version in ("1.0", "2.0", "3.0"))
    damaged = releases.folder(gone.digest).with_suffix(".trash")
    whole(releases, other)
    damaged.mkdir()
    scandir = os.scandir

    def scan(place):
        folder = Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else place
        if Path(folder) == damaged:
            raise OSError(errno.EUCLEAN, "Structure needs cleaning")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    assert isinstance(releases.begin(new, keep=[]), PartialRelease)
    assert (damaged.exists(), releases.folder(other.digest).exists()) == (True, False)
    assert "old release stays" in caplog.text

"""Bundles: the same bytes for the same input, and nothing in them that the manifest doesn't list."""

import io
import struct
import zipfile

import pytest

from edgeml_core import manifest
from edgeml_core.bundle import BundleReader
from edgeml_core.errors import RejectedError
from support.samples import FILES, a_bundle, a_manifest


def test_a_bundle_is_read_as_it_was_written():
    """Every file comes out with its content."""
    reader = BundleReader(io.BytesIO(a_bundle()))
    assert reader.manifest == a_manifest()
    assert {entry.path: reader.read(entry.path) for entry in reader.manifest.files} == FILES


def test_the_same_input_gives_the_same_bytes():
    """No time, no owner, no order of a dictionary enters the file."""
    assert a_bundle() == a_bundle(files=dict(reversed(FILES.items())))


def test_it_is_a_plain_zip():
    """Any unzip tool opens it."""
    with zipfile.ZipFile(io.BytesIO(a_bundle())) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *sorted(FILES)]


def test_a_flipped_byte_in_a_file_is_refused():
    """The chunk that differs is never handed out."""
    data = bytearray(a_bundle())
    data[data.index(FILES["model.weights"][:64]) + 70_000] ^= 1
    reader = BundleReader(io.BytesIO(bytes(data)))
    with pytest.raises(RejectedError) as caught:
        reader.read("model.weights")
    assert caught.value.code == "digest-mismatch"


def rezipped(change):
    """A bundle's members passed through `change(name, content) -> [(name, content, compression)]`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(a_bundle())) as archive, zipfile.ZipFile(out, "w") as copy:
        for name in archive.namelist():
            for new_name, content, compression in change(name, archive.read(name)):
                copy.writestr(new_name, content, compression)
    return out.getvalue()


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x05\x06" + b"\0" * 18,
        a_bundle()[:-30],
        rezipped(lambda name, content: [(name, content, DEFLATED)]),
        rezipped(lambda name, content: [(name, content, DEFLATED if name == "model.weights" else STORED)]),
        rezipped(lambda name, content: [] if name == "model.onnx" else [(name, content, STORED)]),
        rezipped(lambda name, content: [] if name == "manifest.json" else [(name, content, STORED)]),
        rezipped(lambda name, content: [(name, content, STORED)] * (1 + (name == "model.onnx"))),
        rezipped(lambda name, content: [(name, content, STORED), (f"{name}.more", b"", STORED)]),
        rezipped(lambda name, content: [("../" + name, content, STORED)]),
        rezipped(lambda name, content: [(name, content[:-1] if name == "model.onnx" else content, STORED)]),
    ],
    ids=["empty", "no-members", "cut", "compressed", "one-compressed", "missing", "no-manifest", "twice", "extra",
         "escape", "short"],
)  # fmt: skip
def test_what_write_would_not_have_made_is_refused(data):
    """A file left out, added, doubled, compressed, cut or renamed is found when the bundle is opened."""
    with pytest.raises(RejectedError) as caught:
        BundleReader(io.BytesIO(data))
    assert caught.value.code == "bundle-format"


def test_a_manifest_that_claims_to_be_huge_is_not_read(monkeypatch):
    """The member's claimed size is held against the bound before anything is allocated."""
    monkeypatch.setattr(manifest, "MANIFEST_MAX_BYTES", 10)
    with pytest.raises(RejectedError, match="too long"):
        BundleReader(io.BytesIO(a_bundle()))


def test_sizes_in_the_zip_must_be_the_manifests():
    """A central directory that lies about a size is refused."""
    data = bytearray(a_bundle())
    at = data.rindex(b"model.weights") - 46  # the central directory's entry; its size fields are at 20 and 24
    struct.pack_into("<II", data, at + 20, 5, 5)
    with pytest.raises(RejectedError):
        BundleReader(io.BytesIO(bytes(data)))


def test_a_file_that_is_not_there_is_named():
    """Asking for more than the manifest lists is refused."""
    with pytest.raises(RejectedError, match="no file 'x'"):
        BundleReader(io.BytesIO(a_bundle())).read("x")


def test_a_manifest_longer_than_its_archive_is_refused():
    """By what the archive's directory claims of it."""
    data = bytearray(a_bundle())
    at = data.index(b"PK\x01\x02") + 20  # the two lengths of the first member
    data[at : at + 8] = struct.pack("<II", len(data), len(data))
    with pytest.raises(RejectedError, match="not a bundle") as caught:
        BundleReader(io.BytesIO(bytes(data)))
    assert caught.value.code == "bundle-format"

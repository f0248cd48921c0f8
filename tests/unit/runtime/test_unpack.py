"""Bundles unpacked, and refused."""

import pytest

from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.errors import RejectedError, UsageError
from edgeml_runtime.unpack import unpacked
from support.tiny_models import tiny_onnx_bundle


def test_unpacked_files_last_as_long_as_the_context(tmp_path):
    """Inside the context each file has the digest listed; after it the folder is gone."""
    written = tiny_onnx_bundle(tmp_path / "a.edgeml", weights_bytes=200_000)
    with unpacked(tmp_path / "a.edgeml") as bundle:
        assert bundle.manifest == written
        assert bundle.manifest_sha256 == chunks.sha256(manifests.encode(written))
        for entry in written.files:
            assert chunks.sha256((bundle.folder / entry.path).read_bytes()) == entry.sha256
    assert not bundle.folder.exists()


def test_unpacked_flipped_byte_is_rejected(tmp_path):
    """A byte changed in the weights is a digest mismatch."""
    path = tmp_path / "a.edgeml"
    tiny_onnx_bundle(path, weights_bytes=200_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RejectedError) as caught, unpacked(path):
        pytest.fail("the bundle was unpacked")
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("name", ["absent.edgeml", "."])
def test_unpacked_file_that_cannot_be_opened_is_a_usage_error(tmp_path, name):
    """A missing file and a folder are usage errors that name the path."""
    with pytest.raises(UsageError, match=str(tmp_path)), unpacked(tmp_path / name):
        pytest.fail("nothing was there")


def test_unpacked_file_of_another_kind_is_rejected(tmp_path):
    """A file that is no bundle is a format error."""
    (tmp_path / "a.edgeml").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(RejectedError) as caught, unpacked(tmp_path / "a.edgeml"):
        pytest.fail("it was unpacked")
    assert caught.value.code == "bundle-format"

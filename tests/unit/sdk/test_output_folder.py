"""A bundle in the output folder is replaced by the same one only, unless that is requested."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml.bundles import Bundle
from edgeml.pipeline import output_folder
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.errors import UsageError
from support import samples, tiny_models


def made(folder: Path, target: str = "x86-vnni", *, scale: float = 2.0) -> Exported:
    """A bundle in a working folder; another scale makes another digest."""
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny-1.0-{target}-onnx.edgeml"
    manifest = tiny_models.tiny_onnx_bundle(path, target=target, scale=scale)
    return Exported(path=path, manifest=manifest, measurements=samples.a_measurement(path))


def request(output: Path, *, overwrite: bool = False) -> ExportRequest:
    """A request for that folder."""
    output.mkdir(exist_ok=True)
    return ExportRequest(
        model="tiny", targets=("x86-vnni",), version="1.0", name="tiny", output=output, overwrite=overwrite
    )


def test_the_same_bundle_is_delivered_again(tmp_path: Path):
    """A second export of the same content changes nothing and fails nothing."""
    asked = request(tmp_path / "out")
    (first,) = output_folder.deliver(asked, [made(tmp_path / "work")])
    content = first.path.read_bytes()
    (second,) = output_folder.deliver(asked, [made(tmp_path / "work")])
    assert second.path == first.path
    assert second.path.read_bytes() == content


def test_another_bundle_of_that_name_and_version_is_not_replaced(tmp_path: Path):
    """Nor is any other bundle of the run delivered."""
    asked = request(tmp_path / "out")
    (first,) = output_folder.deliver(asked, [made(tmp_path / "work")])
    before = {path.name: path.read_bytes() for path in asked.output.iterdir()}
    both = [made(tmp_path / "work", "x86-gateway"), made(tmp_path / "work", scale=3.0)]
    with pytest.raises(UsageError, match="has another digest") as caught:
        output_folder.deliver(asked, both)
    assert caught.value.code == "bundle-exists"
    assert "--overwrite" in caught.value.hint
    assert {path.name: path.read_bytes() for path in asked.output.iterdir()} == before
    assert first.path.name in before


def test_another_bundle_is_replaced_on_request(tmp_path: Path):
    """With its measurements, which belong to it alone."""
    output_folder.deliver(request(tmp_path / "out"), [made(tmp_path / "work")])
    (second,) = output_folder.deliver(request(tmp_path / "out", overwrite=True), [made(tmp_path / "work", scale=3.0)])
    found = Bundle.open(second.path)
    assert found.measurements is not None
    (answer,) = found.run({"inputs": {"x": [[1.0] * 4]}})
    assert next(iter(answer["outputs"].values())) == [[4.0] * 4]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path):
    """A file of the operator's under that name stays."""
    asked = request(tmp_path / "out")
    (asked.output / "tiny-1.0-x86-vnni-onnx.edgeml").write_text("mine")
    with pytest.raises(UsageError, match="no whole bundle") as caught:
        output_folder.deliver(asked, [made(tmp_path / "work")])
    assert caught.value.code == "bundle-exists"


@pytest.mark.parametrize(("overwrite", "is_refused"), [(False, True), (True, False)])
def test_another_models_bundle_is_seen_before_any_work(tmp_path: Path, overwrite: bool, is_refused: bool):
    """By the digest of its source, which the manifest has."""
    asked = request(tmp_path / "out", overwrite=overwrite)
    (first,) = output_folder.deliver(asked, [made(tmp_path / "work")])
    own = first.manifest.provenance.source_sha256
    output_folder.check_free(asked, "tiny", own, [("x86-vnni", "onnx")])
    output_folder.check_free(asked, "tiny", "1" * 64, [("x86-vnni", "tflite"), ("rpi4", "onnx")])
    if not is_refused:
        output_folder.check_free(asked, "tiny", "1" * 64, [("x86-vnni", "onnx")])
        return
    with pytest.raises(UsageError, match="exported from another model") as caught:
        output_folder.check_free(asked, "tiny", "1" * 64, [("x86-vnni", "onnx")])
    assert caught.value.code == "bundle-exists"

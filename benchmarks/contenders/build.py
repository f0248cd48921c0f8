"""The models that are compared: edgeml's bundles and parts of its export, optimum's int8 preset, NNCF's int8."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from contenders.race import Contender
from edgeml import targets, workspace
from edgeml.exporters import fp32
from edgeml.exporters.load import load
from edgeml.pipeline import pack
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml.quantize import apply
from edgeml_core import manifest as manifests
from edgeml_core.manifest import ENGINES, Format
from edgeml_runtime.unpack import unpacked

OPENVINO_INSTALL = "pip install openvino nncf"
#: Neither NNCF nor openvino-telemetry reports what it does when it believes itself in a test run.
NO_REPORTS = {"CI": "true", "NNCF_CI": "1"}


def bundles(model: Path, folder: Path) -> list[Contender]:
    """What `edgeml export` ships for this machine's own target in both formats, unpacked."""
    target = targets.this_machine().name
    request = ExportRequest(
        model=str(model), targets=[target], formats=["onnx", "tflite"], name="model", output=folder / "bundles"
    )
    return [_unpacked(exported.path, folder) for exported in export(request)]


def _unpacked(path: Path, folder: Path) -> Contender:
    with unpacked(path) as opened:
        manifest = opened.manifest
        kept = shutil.copytree(opened.folder, folder / manifest.stem)
    (kept / manifests.MANIFEST_NAME).write_bytes(manifests.encode(manifest))
    return _edgeml(manifest.runtime.engine, manifest.card.recipe, kept)


def quantized(
    model: Path, file_format: Format, folder: Path, *, calibration: Sequence[dict[str, np.ndarray]] = ()
) -> Contender:
    """The target's first recipe for a model whose weights mean nothing: exported and quantized, but not checked."""
    profile = targets.this_machine()
    request = ExportRequest(model=str(model), targets=[profile.name], output=folder)
    with workspace.folder(folder) as temporary:
        with workspace.quiet(temporary):
            source = load(request, temporary)
        whole = fp32.write(source, file_format, _new(temporary / "fp32"))
        recipe = profile.engines[ENGINES[file_format]].recipes[source.kind][0]
        kept = _new(folder / f"edgeml-{file_format}")
        with workspace.quiet(temporary):
            built = apply.apply(recipe, whole, kept, _layout(calibration, file_format))
    draft = pack.draft(built, source, profile, pack.Release(name="model", version="1"))
    (kept / manifests.MANIFEST_NAME).write_bytes(manifests.encode(draft))
    return _edgeml(draft.runtime.engine, recipe, kept)


def optimum(model: Path, task: str, folder: Path) -> tuple[Contender, Contender]:
    """optimum-onnx's own export in fp32, and its avx512_vnni dynamic int8 preset, as its documentation has them."""
    whole, small = folder / "optimum-fp32", folder / "optimum-int8"
    with workspace.quiet(folder):
        main_export(str(model), whole, task=task, library_name="transformers", do_validation=False)
        preset = AutoQuantizationConfig.avx512_vnni(is_static=False)
        ORTQuantizer.from_pretrained(whole).quantize(save_dir=small, quantization_config=preset)
    return (
        Contender(name="onnxruntime fp32", kind="onnxruntime", path=whole / "model.onnx"),
        Contender(name="optimum-onnx int8 preset", kind="onnxruntime", path=small / "model_quantized.onnx"),
    )


def openvino(onnx: Path, inputs: Path, folder: Path) -> list[Contender]:
    """NNCF's post-training int8 in several settings, calibrated on `inputs`; none where it isn't installed."""
    if not all(map(importlib.util.find_spec, ("openvino", "nncf"))):
        return []
    models = folder / "openvino"
    command = [sys.executable, Path(__file__).with_name("nncf_int8.py"), onnx, inputs, models]
    with workspace.quiet(folder):
        subprocess.run(command, check=True, env=os.environ | NO_REPORTS | {"HOME": str(folder)})
    written = sorted(models.glob("*.xml"), key=lambda it: it.stem)
    return [Contender(name=f"OpenVINO {it.stem}", kind="openvino", path=it) for it in written]


def _edgeml(engine: str, recipe: str, path: Path) -> Contender:
    runtime = {"litert": "LiteRT"}.get(engine, engine)
    return Contender(name=f"edgeml {runtime} {recipe}", kind="edgeml", path=path)


def _layout(rows: Sequence[dict[str, np.ndarray]], file_format: Format) -> list[dict[str, np.ndarray]]:
    """Images as the format takes them."""
    if file_format == "onnx":
        return list(rows)
    return [{name: np.ascontiguousarray(it.transpose(0, 2, 3, 1)) for name, it in row.items()} for row in rows]


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path

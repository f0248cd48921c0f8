"""The models that are compared: edgeml's bundles and parts of its export, optimum's int8 preset, NNCF's int8."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from edgeml import targets, workspace
from edgeml.exporters import fp32
from edgeml.exporters.load import load
from edgeml.pipeline import pack
from edgeml.pipeline.request import ExportRequest
from edgeml.quantize import apply
from edgeml_core import manifest as manifests
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import RecipeName
from edgeml_runtime.unpack import unpacked
from export_parts.race import Contender
from harness import rivals
from harness.figures import Run

OPTIMUM_FP32: Final = "onnxruntime fp32"
OPTIMUM_INT8: Final = "optimum-onnx int8 preset"
NNCF_DEFAULT: Final = "OpenVINO NNCF int8"
#: Keeps NNCF and openvino-telemetry from reporting their use: they are silent in test runs.
NO_REPORTS: Final = {"CI": "true", "NNCF_CI": "1"}


def shipped(bundle: Path, folder: Path) -> Contender:
    """Unpack a bundle below a folder."""
    with unpacked(bundle) as opened:
        manifest = opened.manifest
        kept = shutil.copytree(opened.folder, folder / manifest.stem)
    (kept / manifests.MANIFEST_NAME).write_bytes(manifests.encode(manifest))
    return _edgeml(manifest.runtime.engine, manifest.card.recipe, kept)


def quantized(
    model: Path, file_format: Format, folder: Path, *, calibration: Sequence[dict[str, np.ndarray]] = ()
) -> Contender:
    """Export and quantize a model with the target's first recipe, without the gate: its weights are random.

    Args:
        model: a folder of transformers.
        file_format: the format to convert to.
        folder: the result is written below it.
        calibration: float32 images [1, 3, height, width] for static quantization.
    """
    (made,) = quantized_by([], model, file_format, folder, calibration=calibration)
    return made


def quantized_by(
    recipes: Sequence[RecipeName],
    model: Path,
    file_format: Format,
    folder: Path,
    *,
    calibration: Sequence[dict[str, np.ndarray]] = (),
) -> list[Contender]:
    """Export a model and quantize it with each recipe, as `quantized` does; none stands for the target's first."""
    profile = targets.this_machine()
    request = ExportRequest(model=str(model), targets=[profile.name], output=folder)
    release = pack.Release(name="model", version="1")
    made = []
    with workspace.folder(folder) as temporary:
        with workspace.quiet(temporary):
            source = load(request, temporary)
        whole = fp32.write(source, file_format, _new(temporary / "fp32"))
        for recipe in recipes or profile.engines[ENGINES[file_format]].recipes[source.kind][:1]:
            kept = _new(folder / f"edgeml-{file_format}-{recipe}")
            with workspace.quiet(temporary):
                built = apply.apply(recipe, whole, kept, _layout(calibration, file_format))
            draft = pack.Build(model=built, source=source, profile=profile, release=release).manifest()
            (kept / manifests.MANIFEST_NAME).write_bytes(manifests.encode(draft))
            made.append(_edgeml(draft.runtime.engine, recipe, kept))
    return made


def optimum(model: Path, task: str, folder: Path) -> tuple[Contender, Contender]:
    """Export with optimum-onnx in fp32, and with its avx512_vnni dynamic int8 preset, as its documentation does."""
    whole, small = folder / "optimum-fp32", folder / "optimum-int8"
    with workspace.quiet(folder):
        main_export(str(model), whole, task=task, library_name="transformers", do_validation=False)
        preset = AutoQuantizationConfig.avx512_vnni(is_static=False)
        ORTQuantizer.from_pretrained(whole).quantize(save_dir=small, quantization_config=preset)
    return (
        Contender(name=OPTIMUM_FP32, kind="onnxruntime", path=whole / "model.onnx"),
        Contender(name=OPTIMUM_INT8, kind="onnxruntime", path=small / "model_quantized.onnx"),
    )


def openvino(onnx: Path, inputs: Path, folder: Path, run: Run) -> list[Contender]:
    """Quantize with NNCF's post-training int8 in several settings, calibrated on `inputs`.

    Raises:
        RivalUnavailableError: OpenVINO's environment is missing, or it can't be made.
    """
    python = rivals.programs("openvino", installs=not run.is_quick) / "python"
    models = folder / "openvino"
    command = [python, rivals.REQUIREMENTS / "nncf_int8.py", onnx, inputs, models]
    with workspace.quiet(folder):
        subprocess.run(command, check=True, env=os.environ | NO_REPORTS | {"HOME": str(folder)})
    written = sorted(models.glob("*.xml"), key=lambda it: it.stem)
    return [Contender(name=f"OpenVINO {it.stem}", kind="openvino", path=it, python=python) for it in written]


def _edgeml(engine: str, recipe: str, path: Path) -> Contender:
    runtime = {"litert": "LiteRT"}.get(engine, engine)
    return Contender(name=f"edgeml {runtime} {recipe}", kind="edgeml", path=path)


def _layout(rows: Sequence[dict[str, np.ndarray]], file_format: Format) -> list[dict[str, np.ndarray]]:
    """Return images in the axes' order of a format: [1, 3, height, width], or [1, height, width, 3] for TFLite."""
    if file_format == "onnx":
        return list(rows)
    return [{name: np.ascontiguousarray(it.transpose(0, 2, 3, 1)) for name, it in row.items()} for row in rows]


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path

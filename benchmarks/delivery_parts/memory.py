"""Peak memory of the device's side (`device.py`), installing and updating a 400 MB model."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core import bundle, chunks
from edgeml_core.bundle import BundleReader
from edgeml_core.manifest import Needs
from support.delivery_site import MODEL, Program, Site, site, until
from support.tiny_models import WEIGHTS_NAME, tiny_onnx_bundle

WEIGHTS_BYTES: Final = 400 * 1000**2
#: Every so many chunks of the update differ, in every so many bytes.
CHUNKS_APART: Final = 8
BYTES_APART: Final = 20
MOST_BYTES: Final = 40 * 1024**2
SETTLE_S: Final = 3.0
TIMEOUT_S: Final = 180.0
DEVICE: Final = Path(__file__).with_name("device.py")


def run(folder: Path, _models: Path) -> None:
    """Print the peaks of the installation and of the update."""
    drawn, bundles = folder / "drawn.edgeml", {version: folder / f"{version}.edgeml" for version in ("1.0", "2.0")}
    tiny_onnx_bundle(drawn, weights_bytes=WEIGHTS_BYTES)
    for moved, (version, path) in enumerate(bundles.items()):
        _write(drawn, path, version=version, moved=moved)
    with site(folder / "memory") as made:
        repository.publish(made.repo, list(bundles.values()))
        made.start_host()
        device = Program(made.folder / "agent.log", str(DEVICE), str(made.config))
        made.programs.append(device)
        until(made.observer.states, "the device is there")
        time.sleep(SETTLE_S)
        idle = _memory(device, "VmRSS")
        print(f"device with a {WEIGHTS_BYTES // 1000**2} MB model: idle {idle / 1024**2:.1f} MiB")
        for name, version in zip(("installation", "update by differences"), bundles, strict=True):
            peak = _peak(made, device, version) - idle
            verdict = "met" if peak <= MOST_BYTES else "MISSED"
            print(f"  {name:24} +{peak / 1024**2:.1f} MiB at most; asked for: 40 MiB  {verdict}")


def _write(drawn: Path, path: Path, *, version: str, moved: int) -> None:
    """A version of a bundle that says what it needs, and whose weights are moved by a little in some chunks."""
    with drawn.open("rb") as source, path.open("wb") as out:
        reader = BundleReader(source)
        files = {it.path: io.BytesIO(b"".join(reader.chunks(it))) for it in reader.manifest.files}
        weights = np.frombuffer(files[WEIGHTS_NAME].getbuffer(), np.uint8)
        for start in range(0, len(weights), CHUNKS_APART * chunks.CHUNK_BYTES):
            weights[start : start + chunks.CHUNK_BYTES : BYTES_APART] += moved
        entries = tuple(bundle.describe(name, content) for name, content in files.items())
        needs = Needs(ram_bytes=3 * WEIGHTS_BYTES, disk_bytes=WEIGHTS_BYTES)
        bundle.write(out, msgspec.structs.replace(reader.manifest, version=version, files=entries, needs=needs), files)


def _peak(made: Site, device: Program, version: str) -> int:
    """The most that the device had in memory while it took a version in."""
    Path(f"/proc/{device.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    deploy(made.repo, MODEL, version, selector={})
    until(lambda: _is_active(made, version), f"version {version} is active", TIMEOUT_S)
    return _memory(device, "VmHWM")


def _is_active(made: Site, version: str) -> bool:
    return any((it.version, it.state) == (version, "active") for it in made.observer.reports())


def _memory(device: Program, field: str) -> int:
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) * 1024

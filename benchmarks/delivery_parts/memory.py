"""Peak memory of the device's side (`device.py`) while it installs and updates a large model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from delivery_parts import moved_weights
from edgeml import repository
from edgeml.repository.deployments import deploy
from harness import host
from harness.figures import Figure, Run, most
from support.delivery_site import MODEL, Program, Site, site, until

#: Bytes of the weights, full and quick.
WEIGHTS_BYTES: Final = 400 * 1000**2
QUICK_WEIGHTS_BYTES: Final = 8 * 1000**2
VERSIONS: Final = ("1.0", "2.0")
AIM: Final = most(40)
#: Seconds after the device's first report until its memory counts as idle, full and quick.
SETTLE_S: Final = 3.0
QUICK_SETTLE_S: Final = 0.5
#: Seconds until a version must be active: about ten times of a quiet host's.
TIMEOUT_S: Final = 180.0
DEVICE: Final = Path(__file__).with_name("device.py")
MIB: Final = 1024**2


def figures(run: Run) -> Iterator[Figure]:
    """Yield the memory of an idle device, and its growth during an installation and an update."""
    folder = run.folder / "memory"
    folder.mkdir()
    size = run.size(WEIGHTS_BYTES, QUICK_WEIGHTS_BYTES)
    bundles = moved_weights.bundles(folder, VERSIONS, size)
    with site(folder / "site") as made:
        repository.publish(made.repo, list(bundles.values()))
        made.start_host()
        device = Program(made.folder / "agent.log", str(DEVICE), str(made.config))
        made.programs.append(device)
        until(made.observer.states, "the device is there")
        time.sleep(run.size(SETTLE_S, QUICK_SETTLE_S))
        idle = _memory(device, "VmRSS")
        for name, version in zip(("installation", "update by deltas"), bundles, strict=True):
            with host.watching() as watch:
                peak = _peak(made, device, version)
            yield Figure(
                name=f"memory that the {name} of a large model adds",
                value=(peak - idle) / MIB,
                unit="MiB",
                sides={"idle": round(idle / MIB, 1), "peak": round(peak / MIB, 1)},
                sides_unit="MiB",
                host=watch.load,
                aim=AIM,
                note=f"{size // 1000**2} MB",
            )


def _peak(made: Site, device: Program, version: str) -> int:
    """Return the device's peak memory in bytes while it takes a version in."""
    Path(f"/proc/{device.process.pid}/clear_refs").write_text("5")  # resets the peak
    deploy(made.repo, MODEL, version, selector="")
    until(lambda: _is_active(made, version), f"version {version} is active", TIMEOUT_S)
    return _memory(device, "VmHWM")


def _is_active(made: Site, version: str) -> bool:
    return any((it.version, it.state) == (version, "active") for it in made.observer.reports())


def _memory(device: Program, field: str) -> int:
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) * 1024

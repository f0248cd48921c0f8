"""The bundles of an update: retrained models in a full run, moved weights in a quick one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from delivery_parts import moved_weights
from harness.figures import Run

#: The version that a device has, the same one epoch later, and the same trained again from its encoder.
BASE: Final = "1"
LATER: Final = "2"
TRAINED_AGAIN: Final = "3"
#: Bytes of a quick run's weights.
QUICK_WEIGHTS_BYTES: Final = 4 * 1024**2


def bundles(run: Run) -> dict[str, Path]:
    """Make the bundles, or find them in `run.models`; return them by version."""
    if run.is_quick:
        folder = run.models / "moved"
        folder.mkdir(exist_ok=True)
        return moved_weights.bundles(folder, (BASE, LATER, TRAINED_AGAIN), QUICK_WEIGHTS_BYTES)
    from delivery_parts import retrained_models  # noqa: PLC0415 - it imports torch, which a quick run doesn't need

    return retrained_models.make(run.models)

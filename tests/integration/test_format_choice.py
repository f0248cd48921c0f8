"""Plain export of a real model on this machine: the cheapest format ships, on a quiet host and on a busy one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgeml import targets
from edgeml.pipeline.comparison import NEAR, POINT, TIME_PER_POINT
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest, MeasuringBudget

pytestmark = [pytest.mark.timing, pytest.mark.nightly]

HERE = targets.this_machine().name


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep some cores busy within the context."""
    with ExitStack() as stack:
        for _ in range(count):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        yield


def export_plainly(minilm: Path, output: Path) -> Exported:
    request = ExportRequest(model=str(minilm), name="minilm", targets=(HERE,), output=output, budget=MeasuringBudget())
    (exported,) = export(request)
    return exported


def test_export_without_a_format_ships_the_cheapest_on_a_quiet_and_on_a_busy_host(minilm: Path, tmp_path: Path):
    """With all cores but one kept busy by others the same format ships, and no other one is cheaper by the rule."""
    quiet = export_plainly(minilm, tmp_path / "quiet")
    with busy_loops(max(1, (os.cpu_count() or 1) - 1)):
        busy = export_plainly(minilm, tmp_path / "busy")
    for exported in (quiet, busy):
        manifest, measured = exported.manifest, exported.measurements
        loss = {it.format: 1 - it.cosine for it in manifest.card.tried if it.passed and it.cosine is not None}
        penalty = {it: loss[it] / POINT * math.log(TIME_PER_POINT) for it in loss}
        assert {it.format for it in measured.compared} == {"onnx", "tflite"} == loss.keys()
        for it in measured.compared:
            assert it.interval is not None
            # The upper end of the interval: the candidate left may be cheaper by noise, never for certain.
            slower_by = math.log(it.interval[1]) + penalty[it.format] - penalty[manifest.file_format]
            assert slower_by >= -NEAR, it
        assert manifest.card.choice
        assert manifest.card.choice.startswith(f"{manifest.file_format} ships")
    assert quiet.manifest.file_format == busy.manifest.file_format

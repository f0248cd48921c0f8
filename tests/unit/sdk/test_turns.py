"""Candidates timed in turns, in real processes that stay up."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgeml.check import turns
from edgeml.check.turns import Contestant
from edgeml_core.errors import DeviceError
from edgeml_runtime.tensors import to_data
from edgeml_runtime.unpack import unpacked
from support.tiny_models import tiny_onnx_bundle


@contextmanager
def contestants(folder: Path, **faults: object) -> Iterator[list[Contestant]]:
    """A quick linear model, and one that is slow or faulty; each takes two inputs."""
    with ExitStack() as stack:
        found = []
        for name, options in (("quick", {}), ("other", faults)):
            tiny_onnx_bundle(folder / f"{name}.edgeml", **options)
            opened = stack.enter_context(unpacked(folder / f"{name}.edgeml"))
            inputs = tuple({"x": to_data(np.ones((rows, 4), np.float32))} for rows in (1, 2))
            path = str(opened.folder / opened.manifest.model)
            found.append(Contestant(path=path, manifest=opened.manifest, threads=1, inputs=inputs))
        yield found


def test_take_several_turns_gives_the_expected_time_of_each_contestant(tmp_path: Path):
    """The slow model is the slow one in each turn, whichever goes first, and a tenth of the weights gives a tenth."""
    with contestants(tmp_path, rounds=2000) as found, turns.started(found, (0.5, 0.5)) as running:
        taken = [running.take() for _ in range(6)]
    assert all(0 < quick < slow for quick, slow in taken)
    with contestants(tmp_path, rounds=2000) as found, turns.started(found, (0.05, 0.05)) as running:
        tenths = [running.take() for _ in range(6)]
    ratio = statistics.median(slow for _, slow in tenths) / statistics.median(slow for _, slow in taken)
    assert 0.02 < ratio < 0.5


@pytest.mark.parametrize("fault", ["crash", "huge"])
def test_started_model_that_fails_is_runtime_failed(tmp_path: Path, fault: str):
    """The error names what came of it; no process is left, and no traceback is shown."""
    with (
        contestants(tmp_path, fault=fault) as found,
        pytest.raises(DeviceError, match="timing the model failed") as caught,
        turns.started(found, (0.5, 0.5)),
    ):
        pass
    assert caught.value.code == "runtime-failed"
    assert "Traceback" not in caught.value.message


def test_started_model_that_hangs_is_runtime_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bound on the time of one reply ends a model that hangs."""
    monkeypatch.setattr(turns, "REPLY_TIMEOUT_S", 3)
    with (
        contestants(tmp_path, fault="hang") as found,
        pytest.raises(DeviceError, match="gave no answer within 3 s"),
        turns.started(found[1:], (0.5, 0.5)),
    ):
        pass

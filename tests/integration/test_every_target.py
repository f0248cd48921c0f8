"""Trained models for every board: what the card says of accuracy here and on each board's own CPU, emulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeml import targets
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from support.scale import IS_NIGHTLY

pytestmark = pytest.mark.usefixtures("arm64")

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_DROP = 0.01
#: The CPU that each board's bundle must have been proved on, where this machine's isn't of its kind.
CPUS = {"x86-gateway": "Haswell", "rpi4": "Cortex-A72", "rpi5": "Cortex-A76", "rpi-zero2w": "Cortex-A53"}


def hold(exported: Sequence[Exported]) -> None:
    """Every card shows accuracy with its interval, here and on the board's CPU, and none loses more than accepted."""
    for bundle in exported:
        card, name, board = bundle.manifest.card, bundle.path.name, targets.load(bundle.manifest.target)
        shown = {"here": card.accuracy} | {it.cpu: it.accuracy for it in card.verified if it.how == "emulated"}
        elsewhere = set() if targets.suits_this_machine(board) else {CPUS[board.name]}
        assert shown.keys() == {"here"} | elsewhere, name
        for cpu, accuracy in shown.items():
            assert accuracy is not None, (name, cpu)
            assert accuracy.ci95[0] <= accuracy.drop <= accuracy.ci95[1], (name, cpu)
            # Of the few rows that are answered under emulation one may differ.
            one_row = 0 if cpu == "here" else 1 / accuracy.rows
            assert accuracy.drop <= MAX_DROP + one_row, (name, cpu)
            assert accuracy.classes, (name, cpu)


def test_a_vision_model_for_every_board_in_both_formats(digits: Path, tmp_path: Path):
    """Static int8, calibrated; by night five boards, ten bundles, four emulated CPUs, by day a Pi of them."""
    boards = [profile.name for profile in targets.all()] if IS_NIGHTLY else ["rpi4"]
    exported = export(
        ExportRequest(
            model=f"{EXAMPLES / 'digits.py'}:digits",
            task="image-classification",
            targets=boards,
            formats=("onnx", "tflite"),
            calibrate=digits / "calibrate.jsonl",
            evaluate=digits / "evaluate.jsonl",
            output=tmp_path / "out",
        )
    )
    assert len(exported) == 2 * len(boards)
    assert all(it.manifest.card.recipe.startswith("static") for it in exported)
    hold(exported)


@pytest.mark.nightly
def test_a_text_classifier_for_a_gateway_and_a_pi(triage: Path, tmp_path: Path):
    """Dynamic int8: the gateway's weights leave room for its narrower sums, the Pi's are full."""
    exported = export(
        ExportRequest(
            model=str(triage / "model"),
            targets=("x86-gateway", "rpi4"),
            formats=("onnx",),
            evaluate=triage / "evaluate.jsonl",
            output=tmp_path / "out",
        )
    )
    assert [it.manifest.card.recipe for it in exported] == ["dynamic-s8-reduced", "dynamic-s8"]
    hold(exported)

"""Target profiles: one file, all its problems at once, a source for every number."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml_core import profile
from edgeml_core.errors import UsageError

RPI4 = (Path(__file__).parents[3] / "targets" / "rpi4.toml").read_text()


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        profile.parse(text.encode())
    assert caught.value.code == "target-invalid"
    assert caught.value.hint
    return caught.value.message


def test_a_board_is_read_with_its_numbers():
    """The Pi 4's figures come out typed."""
    board = profile.parse(RPI4.encode())
    assert (board.name, board.cpu.arch, board.cpu.cores) == ("rpi4", "aarch64", 4)
    assert board.memory.model_bytes == board.memory.ram_bytes // 2
    assert "1.21.0" in board.engines["onnxruntime"].bad_versions


@pytest.mark.parametrize(
    "number",
    ["cpu.cores", "memory.ram_bytes", "memory.model_share", "power", "engines.onnxruntime.golden", "evidence.static"],
)
def test_a_number_without_a_source_is_refused(number: str):
    """Taking away any source names the number that has lost it."""
    lines = [line for line in RPI4.splitlines() if not line.startswith(f'"{number}" =')]
    assert f"{number}" in refused("\n".join(lines))


def test_all_problems_are_named_at_once():
    """Three mistakes in three tables come out in one message."""
    text = RPI4.replace("cores = 4", "cores = 0").replace('needs = ["asimd"]', 'needs = ["avx2"]')
    message = refused(text.replace("model_share = 0.5", "model_share = 1.5"))
    assert "3 problem(s)" in message
    assert all(part in message for part in ("cpu.cores is 0", "avx2", "memory.model_share is 1.5"))


def test_a_source_for_nothing_is_refused():
    """A source must name something that the profile has, so that a renamed number can't keep an old source."""
    assert "cpu.sockets" in refused(RPI4 + '"cpu.sockets" = "nobody"\n')


def test_an_empty_source_is_refused():
    """A source that says nothing is none."""
    lines = ['"cpu.cores" = " "' if line.startswith('"cpu.cores"') else line for line in RPI4.splitlines()]
    assert "the source of 'cpu.cores' is empty" in refused("\n".join(lines))


def test_a_recipe_of_the_other_engine_is_refused():
    """LiteRT has no S8 recipe, onnxruntime no plain dynamic one."""
    assert "dynamic-s8" in refused(RPI4.replace('encoder = ["dynamic", ', 'encoder = ["dynamic-s8", '))


def test_parse_evidence_for_a_format_without_its_engine_is_refused():
    """A board that runs onnxruntime alone can't prefer TFLite."""
    before, _, after = RPI4.partition("[engines.litert]")
    rest = after.partition("[evidence.dynamic]")[1:]
    text = "\n".join(line for line in (before + "".join(rest)).splitlines() if not line.startswith('"engines.litert'))
    assert "evidence.static.format is tflite" in refused(text)


def test_a_kind_of_model_without_recipes_is_refused():
    """Every engine says what to do with each kind of model."""
    lines = [line for line in RPI4.splitlines() if not line.startswith("cnn =")]
    assert "lacks cnn" in refused("\n".join(lines))


@pytest.mark.parametrize("text", ["", "not toml =", 'name = "x"', RPI4.replace("[cpu]", '[cpu]\nspeed = "fast"')])
def test_what_is_no_profile_is_refused(text: str):
    """Empty, malformed, incomplete or with an unknown field."""
    assert refused(text)

"""Target profiles found, named closely, and matched with a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml import targets
from edgeml_core.errors import UsageError

GB = 1024**3
VNNI = frozenset({"avx2", "fma", "avx512f", "avx512_vnni"})


def test_all_five_boards_are_valid():
    """Every profile that comes with edgeml parses, and is called as its file is."""
    assert [it.name for it in targets.all()] == ["rpi-zero2w", "rpi4", "rpi5", "x86-gateway", "x86-vnni"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rpi44", "rpi4"),
        ("pi4", "rpi4"),
        ("RPI4", "rpi4"),
        ("raspberry-pi-5", "rpi5"),
        ("x86-gatway", "x86-gateway"),
        ("zero2w", "rpi-zero2w"),
    ],
)
def test_load_misspelled_target_names_the_one_meant(name: str, meant: str):
    """And no other one."""
    with pytest.raises(UsageError, match=name) as caught:
        targets.load(name)
    assert (caught.value.code, caught.value.hint) == ("target-unknown", f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["jetson-nano", "esp32", "rpi3", "x86", "", "a" * 5000, "nul\0byte"])
def test_load_unknown_board_lists_all_that_are_known(name: str):
    """A board that isn't known resembles none: a guess would be another CPU."""
    with pytest.raises(UsageError, match="there is no target") as caught:
        targets.load(name)
    assert caught.value.code == "target-unknown"
    assert caught.value.hint.startswith(
        "take one of rpi-zero2w, rpi4, rpi5, x86-gateway, x86-vnni, or name a file.toml"
    )
    assert len(caught.value.message) < 120
    assert caught.value.__cause__ is None


def test_load_two_targets_in_one_option_gives_the_two_options():
    """The comma is a common guess."""
    with pytest.raises(UsageError, match="no single target") as caught:
        targets.load("rpi4,rpi5")
    assert caught.value.hint.endswith("--target rpi4 --target rpi5")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.toml", "No such file"), ("folder.toml", "Is a directory"), ("a" * 5000 + ".toml", "File name too long")],
)
def test_load_file_that_can_not_be_read_gives_the_reason(tmp_path: Path, name: str, reason: str):
    """The system's own."""
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError, match=reason) as caught:
        targets.load(str(tmp_path / name))
    assert caught.value.code == "target-unknown"


def test_load_file_of_the_operator_is_a_target(tmp_path: Path):
    """A path that ends in .toml is read from where it lies."""
    own = tmp_path / "own.toml"
    own.write_text((targets.folder() / "rpi4.toml").read_text().replace('name = "rpi4"', 'name = "own"'))
    assert targets.load(str(own)).name == "own"


@pytest.mark.parametrize(
    ("arch", "features", "ram_bytes", "name"),
    [
        ("x86_64", VNNI, 16 * GB, "x86-vnni"),
        ("x86_64", frozenset({"avx2", "fma", "avx_vnni"}), 8 * GB, "x86-gateway"),
        ("aarch64", frozenset({"asimd", "asimddp"}), 8 * GB, "rpi5"),
        ("aarch64", frozenset({"asimd"}), 4 * GB, "rpi4"),
        ("aarch64", frozenset({"asimd"}), int(0.42 * GB), "rpi-zero2w"),
    ],
)
def test_suiting_cpu_gets_the_profile_that_uses_most_of_it(
    arch: str, features: frozenset[str], ram_bytes: int, name: str
):
    """Features decide first, memory between boards of one CPU."""
    assert targets.suiting(arch, features, ram_bytes).name == name


def test_suiting_cpu_without_a_profile_is_refused():
    """A CPU without AVX2 has no profile, and the message says what to do."""
    with pytest.raises(UsageError) as caught:
        targets.suiting("x86_64", frozenset({"sse2"}), 4 * GB)
    assert caught.value.code == "target-unknown"


def test_recipes_without_vnni_avoid_the_full_signed_range():
    """The recipe that loses points on such CPUs must not be in their profile."""
    recipes = targets.load("x86-gateway").engines["onnxruntime"].recipes.values()
    assert not {"dynamic-s8", "static-s8"} & {recipe for order in recipes for recipe in order}

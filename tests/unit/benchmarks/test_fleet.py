"""The parts of `benchmarks/fleet.py` that need no broker: fits of growth, and boards that fail versions."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from fleet_parts import growth
from fleet_parts.device import Boards


def test_growth_line_finds_the_fixed_cost_and_that_of_a_device():
    """Of costs on a line."""
    assert growth.line({size: 3 + 0.25 * size for size in (500, 1000, 5000)}) == pytest.approx((3, 0.25))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_exponent_is_that_of_a_power_law(power: float):
    """Below, at and above one."""
    assert growth.exponent({size: 7 * size**power for size in (500, 1000, 5000)}) == pytest.approx(power)


def test_boards_fail_a_version_by_its_fraction_and_always_the_same():
    """About half of a thousand boards fail one version, and none another."""
    boards = Boards(failing={"2.0": 0.5})
    names = [f"board-{number}" for number in range(1000)]
    failed = [name for name in names if boards.fails(name, "2.0")]
    assert 400 < len(failed) < 600
    assert failed == [name for name in names if boards.fails(name, "2.0")]
    assert not any(boards.fails(name, "1.0") for name in names)

"""Energy from RAPL counters, in folders as Linux lays them out."""

import pytest

from edgeml_core.card import Energy
from edgeml_runtime.bench import energy


def rapl(folder, *counters_uj):
    """Counters as Linux lays them out: packages, a part of one, and the control that has none."""
    for number, value in enumerate(counters_uj):
        for name in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "energy_uj").write_text(f"{value}\n")
            (folder / name / "max_energy_range_uj").write_text("1000000\n")
    (folder / "intel-rapl").mkdir(exist_ok=True)
    return energy.read(folder)


def test_between_sums_all_packages_over_the_runs(tmp_path):
    """Parts of a package aren't counted twice, and a counter that started again goes on."""
    before, after = rapl(tmp_path, 100, 900_000), rapl(tmp_path, 500_100, 100_000)
    assert energy.between(before, after, 10).joules_per_inference == pytest.approx((0.5 + 0.2) / 10)


def test_between_unreadable_counters_is_none_with_the_reason(tmp_path):
    """No counters at all; a counter that stands still."""
    absent = energy.read(tmp_path / "powercap")
    assert energy.between(absent, absent, 10).joules_per_inference is None
    assert "no RAPL" in energy.between(absent, absent, 10).note
    still = rapl(tmp_path, 7)
    assert energy.between(still, still, 10) == Energy(
        joules_per_inference=None, note="the RAPL counters stand still, as in a virtual machine"
    )


def test_between_packages_that_changed_is_none(tmp_path):
    """A counter that came or went meanwhile makes the difference meaningless."""
    before = rapl(tmp_path / "one", 100)
    after = rapl(tmp_path / "two", 200, 300)
    found = energy.between(before, after, 1)
    assert (found.joules_per_inference, found.note) == (None, "the RAPL counters changed meanwhile")


def test_read_counter_that_is_no_number_is_missing(tmp_path):
    """The reason has the value."""
    rapl(tmp_path, 100)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("many")
    assert "can't be read" in energy.read(tmp_path).missing

"""`make bench QUICK=1` as people run it: each program runs to its end and returns figures."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: The distance of a ratio, a median over rounds, from that of its two sides: few rounds differ, and a wrong ratio does.
RATIO_MAX = 4
PROGRAMS = {"export", "delivery", "serving", "startup", "language", "fleet"}

# Its figures count for nothing in a quick run, so that others may run beside it.
pytestmark = pytest.mark.export


def test_benchmarks_quick_run_returns_figures_of_each_program(tmp_path: Path):
    """A quick run ends well, and its report has finite figures of all programs with the host's load."""
    command = [sys.executable, "benchmarks", "--quick", "--json", tmp_path / "report.json", "--models", tmp_path]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["cpu"]
    assert report["versions"]["onnxruntime"]
    figures = {it["name"]: [one for one in it["outcomes"] if one["type"] == "figure"] for it in report["programs"]}
    assert figures.keys() == PROGRAMS
    assert all(found and all(math.isfinite(it["value"]) for it in found) for found in figures.values())
    for it in (
        it for found in figures.values() for it in found if it.get("unit") == "x" and len(it.get("sides", ())) == 2
    ):
        one, other = it["sides"].values()
        nearest = min(abs(math.log(it["value"] * other / one)), abs(math.log(it["value"] * one / other)))
        assert nearest < math.log(RATIO_MAX), f"{it['name']} is {it['value']}, and its sides are {one} and {other}"
    loads = [it.get("host", {}).get("other_cores") for found in figures.values() for it in found]
    assert sum(load is not None for load in loads) > len(loads) / 2, "the host's load is missing beside most figures"


# 100 s of CPU time; by day a part of each program runs above.
@pytest.mark.nightly
@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_benchmark_runs_each_of_its_parts(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each one that `--help` names."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    parts = runpy.run_path(str(ROOT / f"benchmarks/{program}.py"))["PARTS"]
    command = [sys.executable, f"benchmarks/{program}.py", "--quick", "--json", tmp_path / "report.json", *parts]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert all(f": {module} took " in ran.stderr for modules in parts.values() for module in modules)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_benchmark_unknown_part_is_refused(program: str):
    """A part that doesn't exist is named, with those that do."""
    command = [sys.executable, f"benchmarks/{program}.py", "nonsense"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "unknown part 'nonsense'; name one of: " in ran.stderr

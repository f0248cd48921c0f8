"""The parts that benchmark programs share: figures, host load, environments of rivals, reports and tables."""

import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import tables
from harness import host, program, report, rivals
from harness.figures import Figure, HostLoad, Omission, Run, least, most, number, without_aims
from harness.host import Machine
from harness.report import ProgramReport, Report

QUIET = HostLoad(other_cores=0.02, other_cores_max=0.1, steal=0.0)
BUSY = HostLoad(other_cores=1.2, other_cores_max=1.9, steal=0.0)


def reported(*outcomes: Figure | Omission, error: str = "", cpu: str = "CPU") -> Report:
    """A report of one program."""
    found = ProgramReport(name="serving", outcomes=outcomes, error=error)
    return Report(machine=Machine(cpu=cpu), programs=(found,), date="2026-01-01 00:00 UTC")


def test_aim_bounds_from_its_own_side():
    """`least` holds from the bound upwards, `most` from the bound downwards."""
    assert [least(2).is_met(it) for it in (1.9, 2, 2.1)] == [False, True, True]
    assert [most(2).is_met(it) for it in (1.9, 2, 2.1)] == [True, True, False]


@pytest.mark.parametrize(
    ("load", "busy"), [(HostLoad(), False), (QUIET, False), (BUSY, True), (HostLoad(other_cores=0, steal=0.2), True)]
)
def test_host_load_is_busy_by_other_cores_or_steal(load: HostLoad, busy: bool):
    """Other programs or the hypervisor make a host busy; an unknown load doesn't, and says so."""
    assert load.is_busy == busy
    assert ("BUSY" in str(load)) == busy


@pytest.mark.parametrize(
    ("value", "text"), [(9634.4, "9,634"), (0.998765, "0.99877"), (0.94, "0.94"), (7.216, "7.22"), (0, "0"), (50, "50")]
)
def test_number_keeps_the_digits_that_count(value: float, text: str):
    """Three digits, but five of a cosine near 1, and all of a whole number."""
    assert number(value) == text


def test_report_reads_what_it_wrote():
    """JSON keeps figures and omissions apart."""
    figure = Figure(name="p50", value=1.5, unit="ms", sides={"a": 1.5, "b": 3.0}, host=QUIET, aim=most(2))
    before = reported(figure, Omission(name="KServe", reason="not installed"))
    assert msgspec.json.decode(report.encode(before), type=Report) == before


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (reported(Figure(name="p50", value=1)), report.OK),
        (reported(Figure(name="p50", value=1, aim=most(0))), report.OK),
        (reported(Figure(name="p50", value=math.nan)), report.FAILED),
        (reported(Omission(name="KServe", reason="not installed")), report.FAILED),
        (reported(Figure(name="p50", value=1), error="Traceback"), report.FAILED),
        (Report(machine=Machine(cpu="CPU"), programs=()), report.FAILED),
    ],
)
def test_report_failure_without_figures_or_with_an_error(found: Report, code: int):
    """A program without a figure or with an error fails the run; a missed aim doesn't."""
    assert report.failure(found) == code


def test_report_markdown_shows_load_aim_and_omission_beside_figures():
    """Each figure stands with its aim, the host's load and both sides."""
    figure = Figure(name="p50", value=3, unit="ms", sides={"a": 3, "b": 9}, sides_unit="ms", host=BUSY, aim=most(2))
    text = report.markdown(reported(figure, Omission(name="KServe", reason="not installed")))
    assert "| p50 | 3 ms | at most 2 ms: MISSED | 1.20 cores (most 1.90): BUSY | a 3; b 9 ms |" in text
    assert "Not measured: KServe: not installed" in text


def test_quick_run_drops_aims():
    """Aims are for full-size models."""
    omission = Omission(name="KServe", reason="not installed")
    assert without_aims([Figure(name="p50", value=1, aim=most(0)), omission]) == [Figure(name="p50", value=1), omission]


def test_watch_leaves_out_the_benchmarks_own_processes():
    """CPU time of a child is the benchmark's own, even when the child has ended."""
    before = host._tree_cpu_s()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert host._tree_cpu_s() - before >= 0.4


def test_machine_label_names_the_best_feature():
    """AMX comes before VNNI."""
    assert Machine(cpu="Intel Xeon", features=("avx512_vnni", "amx_int8")).label == "Intel Xeon, AMX"
    assert Machine(cpu="Cortex-A72").label == "Cortex-A72"


def test_program_part_without_figures_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A part that returns nothing fails its program."""
    (tmp_path / "empty_part.py").write_text("def figures(run):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(folder=tmp_path / "run", models=tmp_path / "models", is_quick=True, parts=("part",))
    with pytest.raises(RuntimeError, match="empty_part returned no figure"):
        program.measured("serving", {"part": ["empty_part"]}, run)


def test_rivals_quick_run_makes_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A missing environment is a reason, not an installation."""
    monkeypatch.setattr(rivals, "ENVIRONMENTS", tmp_path)
    with pytest.raises(rivals.RivalUnavailableError, match="a quick run makes none"):
        rivals.programs("kserve", installs=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(rivals.REQUIREMENTS.glob("*.txt")), ids=lambda it: it.stem)
def test_rivals_requirements_are_pinned(path: Path):
    """Every requirement has one version, and the rival itself is among them."""
    pins = dict(line.split("==") for line in path.read_text().splitlines())
    assert path.stem in pins


def test_tables_give_the_range_over_machines_by_load():
    """A cell has quiet, busy and unrecorded values apart; the last column spans all machines."""
    reports = [
        reported(Figure(name="speed", value=7.2, unit="x", host=QUIET, aim=least(6)), cpu="EPYC"),
        reported(Figure(name="speed", value=6.6, unit="x", host=BUSY, aim=least(6)), cpu="EPYC"),
        reported(Figure(name="speed", value=4.3, unit="x"), Figure(name="speed", value=4.5, unit="x"), cpu="Xeon"),
    ]
    text = tables.filled("<!-- figures: serving -->\nstale\n<!-- end of figures -->", reports)
    assert "| speed | at least 6 x | 7.2 x; 6.6 x (busy) | 4.3 to 4.5 x * | 4.3 to 7.2 x |" in text
    assert "stale" not in text


def test_a_table_that_no_report_has_figures_for_says_so():
    """A program that is new has a place on the page already."""
    found = [reported(Figure(name="speed", value=1))]
    text = tables.filled("<!-- figures: language -->\n<!-- end of figures -->", found)
    assert text == "<!-- figures: language -->\nNo report has these figures yet.\n<!-- end of figures -->"


def test_tables_in_the_documents_are_those_of_the_reports():
    """README.md and docs/benchmarks.md hold no figure that no report has."""
    reports = [report.read(path) for path in sorted(tables.REPORTS.glob("*.json"))]
    for page in tables.PAGES:
        text = (tables.ROOT / page).read_text()
        assert "<!-- figures: " in text
        assert tables.filled(text, reports) == text, f"{page}: run `make docs`"

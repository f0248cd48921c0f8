"""`edgeml bench`: what it measures, what it says of the host, and what it refuses."""

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from edgeml.bench import measure
from edgeml.cli.bench import bench
from edgeml_core.calls import Timing
from edgeml_core.card import Energy
from edgeml_core.errors import UsageError
from edgeml_runtime.bench import energy, host_load
from edgeml_runtime.bench.host_load import Counts
from support.tiny_models import tiny_onnx_bundle

STEADY_MS = [1.0, 1.01, 1.02, 1.01] * 10


@pytest.fixture
def bundle(tmp_path):
    """A real bundle of a linear model."""
    path = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(path)
    return path


def counts(total_s=0.0, busy_s=0.0, steal_s=0.0, own_s=0.0):
    return Counts(total_s=total_s, busy_s=busy_s, steal_s=steal_s, own_s=own_s)


def test_every_figure_is_measured_and_says_of_what(bundle):
    """Percentiles in order, a time for loading, memory of a whole process, the input that was run."""
    found = measure(bundle, timing=Timing(seconds=0.05))
    result = found.result
    assert 0 < result.latency.p50_ms <= result.latency.p90_ms <= result.latency.p99_ms
    assert result.latency.runs >= 30
    assert result.load_ms > 0 < result.first_inference_ms
    assert 0 < result.throughput_per_s <= 2 * 1000 / result.latency.p50_ms  # half of the runs take the median or longer
    assert 20e6 < result.peak_rss_bytes < 500e6
    assert (found.input_shapes, found.threads, found.engine) == ({"x": (2, 4)}, 1, "onnxruntime")


def test_json_holds_what_the_help_says(bundle):
    """One object; its first level is the one documented."""
    done = CliRunner().invoke(bench, [str(bundle), "--seconds", "0.05", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {key for key in found if key not in (bench.help or "")} == set()
    assert set(found["latency"]) == {"p50_ms", "p90_ms", "p99_ms", "runs", "warmup"}
    assert set(found["host"]) == {"quiet", "other_cores", "steal", "drift", "spread", "doubts"}
    assert found["host"]["quiet"] is (found["host"]["doubts"] == [])
    assert found["energy"]["note"]


def test_people_get_a_table_and_the_doubts(bundle):
    """The figures on stdout; where the host wasn't quiet, each reason on stderr."""
    done = CliRunner().invoke(bench, [str(bundle), "--seconds", "0.05"])
    assert "latency p50/p90/p99" in done.stdout
    assert ("NOT quiet" in done.stdout) is ("the host was not quiet: " in done.stderr)


def test_nothing_is_benched_emulated(bundle):
    """Emulated time is not speed."""
    with pytest.raises(UsageError, match="an emulator's time is no measure"):
        measure(bundle, "emulated", timing=Timing())


def test_a_case_that_there_is_not_is_named(bundle):
    """Golden cases count from 1."""
    with pytest.raises(UsageError, match="no golden case 2"):
        measure(bundle, timing=Timing(case=2))


@pytest.mark.parametrize("asked", [["--case", "0"], ["--seconds", "0"], ["--seconds", "1e9"], ["--threads", "0"]])
def test_a_run_has_an_end(bundle, asked):
    """What can't be asked is a matter of usage."""
    assert CliRunner().invoke(bench, [str(bundle), *asked]).exit_code == UsageError.exit_code


def test_a_quiet_host_raises_no_doubt():
    """Own work doesn't count as that of others."""
    found = host_load.judge(counts(), counts(total_s=20, busy_s=10.01, own_s=10), STEADY_MS)
    assert found.quiet


@pytest.mark.parametrize(
    ("after", "times_ms", "doubt"),
    [
        (counts(total_s=20, busy_s=15, own_s=5), STEADY_MS, "other processes"),
        (counts(total_s=20, busy_s=5, own_s=5, steal_s=1), STEADY_MS, "hypervisor"),
        (counts(total_s=20, busy_s=5, own_s=5), [1.0] * 20 + [1.1] * 20, "second half"),
        (counts(total_s=20, busy_s=5, own_s=5), [1.0, 2.0] * 20, "quartiles"),
    ],
)
def test_each_disturbance_is_named(after, times_ms, doubt):
    """Other processes, the hypervisor, a drift, a spread."""
    assert any(doubt in said for said in host_load.judge(counts(), after, times_ms).doubts)


def test_a_busy_neighbour_is_seen():
    """By the kernel's own counts, while this process sleeps."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        before = host_load.counts()
        time.sleep(0.6)
        found = host_load.judge(before, host_load.counts(), STEADY_MS)
        neighbour.kill()
    assert found.other_cores > host_load.OTHER_CORES_MAX


def test_a_system_without_counts_is_not_called_busy(tmp_path):
    """What isn't known is None."""
    found = host_load.judge(host_load.counts(tmp_path / "stat"), None, STEADY_MS)
    assert (found.other_cores, found.steal, found.quiet) == (None, None, True)


def rapl(folder, *counters_uj):
    """Counters as Linux lays them out: packages, a part of one, and the control that has none."""
    for number, value in enumerate(counters_uj):
        for name in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "energy_uj").write_text(f"{value}\n")
            (folder / name / "max_energy_range_uj").write_text("1000000\n")
    (folder / "intel-rapl").mkdir(exist_ok=True)
    return energy.read(folder)


def test_energy_is_that_of_all_packages_over_the_runs(tmp_path):
    """Parts of a package aren't counted twice, and a counter that started again goes on."""
    before, after = rapl(tmp_path, 100, 900_000), rapl(tmp_path, 500_100, 100_000)
    assert energy.between(before, after, 10).joules_per_inference == pytest.approx((0.5 + 0.2) / 10)


def test_energy_that_can_t_be_read_is_null_with_the_reason(tmp_path):
    """No counters at all; a counter that stands still."""
    absent = energy.read(tmp_path / "powercap")
    assert energy.between(absent, absent, 10).joules_per_inference is None
    assert "no RAPL" in energy.between(absent, absent, 10).note
    still = rapl(tmp_path, 7)
    assert energy.between(still, still, 10) == Energy(
        joules_per_inference=None, note="the RAPL counters stand still, as in a virtual machine"
    )

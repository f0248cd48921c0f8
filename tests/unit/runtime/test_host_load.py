"""The host's load during a benchmark."""

import subprocess
import sys
import time

import pytest

from edgeml_runtime.bench import host_load
from edgeml_runtime.bench.host_load import Counts

STEADY_MS = [1.0, 1.01, 1.02, 1.01] * 10


def counts(total_s=0.0, busy_s=0.0, steal_s=0.0, own_s=0.0):
    return Counts(total_s=total_s, busy_s=busy_s, steal_s=steal_s, own_s=own_s)


def test_assess_quiet_host_has_no_doubt():
    """Own work doesn't count as that of others."""
    found = host_load.assess(counts(), counts(total_s=20, busy_s=10.01, own_s=10), STEADY_MS)
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
def test_assess_names_each_disturbance(after, times_ms, doubt):
    """Other processes, the hypervisor, a drift, a spread."""
    assert any(doubt in sentence for sentence in host_load.assess(counts(), after, times_ms).doubts)


def test_counts_show_a_busy_neighbour():
    """By the kernel's own counts, while this process sleeps."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        before = host_load.counts()
        time.sleep(0.6)
        found = host_load.assess(before, host_load.counts(), STEADY_MS)
        neighbour.kill()
    assert found.other_cores > host_load.OTHER_CORES_MAX


def test_assess_without_counts_has_no_figures_and_no_doubt(tmp_path):
    """An unknown figure is None."""
    found = host_load.assess(host_load.counts(tmp_path / "stat"), None, STEADY_MS)
    assert (found.other_cores, found.steal, found.quiet) == (None, None, True)


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n"])
def test_counts_of_a_file_in_another_form_are_none(tmp_path, text):
    """An old kernel, or a container that hides the file."""
    (tmp_path / "stat").write_text(text)
    assert host_load.counts(tmp_path / "stat") is None


def test_counts_separate_idle_and_stolen_time(tmp_path):
    """Columns: user, nice, system, idle, iowait, irq, softirq, steal, in ticks."""
    (tmp_path / "stat").write_text("cpu 100 20 30 400 50 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1\n")
    found = host_load.counts(tmp_path / "stat")
    ticks = host_load._TICKS_PER_S
    assert (found.total_s, found.busy_s, found.steal_s) == (693 / ticks, 163 / ticks, 80 / ticks)

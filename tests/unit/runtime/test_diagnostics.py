"""The checks that host and device share: each against a machine that is well, and one that isn't."""

from datetime import timedelta

import pytest

from edgeml_runtime.hardware import diagnostics


def test_python_too_old_fails():
    """The remedy names the version."""
    check = diagnostics.python((3, 10, 9))
    assert (check.status, "3.11" in check.remedy) == ("failed", True)
    assert diagnostics.python((3, 11, 0)).status == "ok"


@pytest.mark.parametrize(
    ("arch", "features", "status"),
    [
        ("x86_64", {"avx2"}, "ok"),
        ("x86_64", {"sse4_2"}, "warning"),
        ("aarch64", {"asimd"}, "ok"),
        ("aarch64", set(), "ok"),
        ("armv7l", {"neon"}, "failed"),
    ],
)
def test_cpu_status_follows_architecture_and_features(arch, features, status):
    """32-bit systems fail, slow ones are warned of."""
    assert diagnostics.cpu(arch, frozenset(features)).status == status


def test_python_problem_names_a_killed_import():
    """A wheel for another CPU dies of SIGILL: in the child, with a plain sentence here."""
    assert diagnostics.python_problem("import os, signal; os.kill(os.getpid(), signal.SIGILL)") == (
        "uses an instruction that this CPU lacks"
    )
    assert diagnostics.python_problem("import no_such_module").endswith("No module named 'no_such_module'")
    assert diagnostics.python_problem("pass") is None


def test_engine_absent_fails_only_for_onnxruntime(monkeypatch):
    """Onnxruntime belongs to the agent; LiteRT is an extra, and its line says which."""
    monkeypatch.setattr(diagnostics.engines, "installed", dict)
    assert diagnostics.engine("onnxruntime").status == "failed"
    litert = diagnostics.engine("litert")
    assert (litert.status, "edgeml-deploy[tflite]" in litert.detail) == ("ok", True)


def test_memory_below_the_minimum_warns():
    """The floor itself is enough."""
    assert diagnostics.memory(diagnostics.MEMORY_MIN_BYTES - 1).status == "warning"
    assert diagnostics.memory(diagnostics.MEMORY_MIN_BYTES).status == "ok"


def test_disk_absent_folder_takes_its_nearest_parent(tmp_path):
    """What is yet to be made will lie on that disk."""
    check = diagnostics.disk(tmp_path / "not" / "yet")
    assert check.status == "ok"
    assert str(tmp_path) in check.detail


def test_disk_below_the_minimum_warns(tmp_path, monkeypatch):
    """The remedy says how much is wanted."""
    monkeypatch.setattr(diagnostics, "DISK_MIN_BYTES", 2**62)
    check = diagnostics.disk(tmp_path)
    assert (check.status, "MiB" in check.remedy) == ("warning", True)


def test_clock_before_this_release_warns():
    """Boards without a battery start in 1970."""
    assert diagnostics.clock(diagnostics.CLOCK_FLOOR - timedelta(seconds=1)).status == "warning"
    assert diagnostics.clock(diagnostics.CLOCK_FLOOR).status == "ok"

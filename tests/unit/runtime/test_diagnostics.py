"""The checks that host and device share: each against a machine that is well, and one that isn't."""

from datetime import timedelta

import pytest

from edgeml_runtime.hardware import diagnostics


def test_an_old_python_fails():
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
def test_a_cpu_is_judged_by_what_bundles_are_made_for(arch, features, status):
    """32-bit systems fail, slow ones are warned of."""
    assert diagnostics.cpu(arch, frozenset(features)).status == status


def test_an_import_that_kills_its_process_is_survived():
    """A wheel for another CPU dies of SIGILL: in the child, with a plain sentence here."""
    assert diagnostics.python_problem("import os, signal; os.kill(os.getpid(), signal.SIGILL)") == (
        "uses an instruction that this CPU lacks"
    )
    assert diagnostics.python_problem("import no_such_module").endswith("No module named 'no_such_module'")
    assert diagnostics.python_problem("pass") is None


def test_a_runtime_that_is_absent_fails_only_where_all_need_it(monkeypatch):
    """Onnxruntime belongs to the agent; LiteRT is an extra, and its line says which."""
    monkeypatch.setattr(diagnostics.engines, "installed", dict)
    assert diagnostics.engine("onnxruntime").status == "failed"
    litert = diagnostics.engine("litert")
    assert (litert.status, "edgeml-deploy[tflite]" in litert.detail) == ("ok", True)


def test_little_memory_is_warned_of():
    """The floor itself is enough."""
    assert diagnostics.memory(diagnostics.MEMORY_MIN_BYTES - 1).status == "warning"
    assert diagnostics.memory(diagnostics.MEMORY_MIN_BYTES).status == "ok"


def test_a_folder_is_judged_by_its_nearest_parent(tmp_path):
    """What is yet to be made will lie on that disk."""
    check = diagnostics.disk(tmp_path / "not" / "yet")
    assert check.status == "ok"
    assert str(tmp_path) in check.detail


def test_a_full_disk_is_warned_of(tmp_path, monkeypatch):
    """The remedy says how much is wanted."""
    monkeypatch.setattr(diagnostics, "DISK_MIN_BYTES", 2**62)
    check = diagnostics.disk(tmp_path)
    assert (check.status, "MiB" in check.remedy) == ("warning", True)


def test_a_clock_in_the_past_is_warned_of():
    """Boards without a battery start in 1970."""
    assert diagnostics.clock(diagnostics.CLOCK_FLOOR - timedelta(seconds=1)).status == "warning"
    assert diagnostics.clock(diagnostics.CLOCK_FLOOR).status == "ok"

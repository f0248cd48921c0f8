"""`edgeml demo` as a person runs it: every step works, no foreign warning is printed, and no file is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


class Sandbox:
    """A home, a folder for temporary files and a working folder of its own."""

    def __init__(self, folder):
        self.home, self.temporary, self.here = (folder / name for name in ("home", "tmp", "here"))
        for path in (self.home, self.temporary, self.here):
            path.mkdir()
        self.errors = folder / "stderr"
        names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
        self.environment = {**os.environ, **dict.fromkeys(names, str(self.home)), "TMPDIR": str(self.temporary)}

    def start(self):
        """Start the demonstration."""
        command = [sys.executable, "-m", "edgeml", "demo", "--json"]
        with self.errors.open("w") as errors:
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self.here, env=self.environment
            )

    def left_files(self):
        """Every file that is left."""
        return [path for root in (self.home, self.temporary, self.here) for path in root.rglob("*")]

    def left_processes(self):
        """Every process that still works in the temporary folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # a process that has ended meanwhile
                if str(self.temporary).encode() in (command := path.read_bytes()):
                    found.append(command)
        return found


@pytest.fixture
def sandbox(tmp_path):
    """A fresh one."""
    return Sandbox(tmp_path)


def test_demo_delivers_and_swaps_a_real_model_and_prints_no_foreign_warning(sandbox):
    """A real model is exported, delivered, asked, and replaced under traffic. No file and no warning is left."""
    process = sandbox.start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    found = json.loads(output.splitlines()[-1])
    card, measured = found["bundle"]["card"], found["bundle"]["measurements"]
    assert card["parity"]["cosine"] >= 0.98
    assert card["size_bytes"] <= 0.28 * card["baseline_size_bytes"]
    assert measured["int8"]["p50_ms"] > 0
    cows, fever = found["similarity"][0][1], found["similarity"][2][3]
    assert min(cows, fever) > 0.4 > found["similarity"][0][2]
    assert [report["state"] for report in found["delivery"]] == ["active", "active"]
    assert all(0 < report["wire_bytes"] <= report["total_bytes"] for report in found["delivery"])
    assert set(found["swap"]["answers"]) == {"1", "2"}
    assert found["swap"]["failed"] == 0
    assert sandbox.left_files() == []
    assert sandbox.left_processes() == []
    assert sandbox.errors.read_text() == ""


@pytest.mark.nightly
def test_demo_stopped_in_the_middle_leaves_nothing(sandbox):
    """Ctrl-C ends it with 130; broker, origin and agent are gone, and so is every file."""
    process = sandbox.start()
    for line in process.stdout:
        if "deploying" in line:
            process.send_signal(signal.SIGINT)
            break
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert json.loads(output.splitlines()[-1])["error"]["code"] == "interrupted"
    assert sandbox.left_files() == []
    assert sandbox.left_processes() == []

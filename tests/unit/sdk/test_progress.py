"""The progress of an export: steps with their times, rows with their rate and the time left."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import sys
from collections.abc import Iterator
from io import RawIOBase

import pytest

from edgeml.cli.output import Output
from edgeml.cli.progress import LINES_EVERY_S, CliProgress, duration


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def an_export(out: Output) -> None:
    """A step of 3 s, then one in which two models answer 100 rows: ten rows a second, and five."""
    clock = Clock()
    with CliProgress(out, clock) as progress:
        progress.stage("load clf")
        clock.now_s += 3
        progress.stage("check clf")
        for rate in (10, 5):
            begun_s = clock.now_s
            for done in range(0, 101, rate):
                clock.now_s = begun_s + done / rate
                progress.rows(done, 100)


def test_lines_of_a_pipe_come_every_few_seconds(capsys: pytest.CaptureFixture[str]):
    """Each with rows, rate and time left; the step ends with its time."""
    an_export(Output(as_json=False, quiet=False))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "  load clf: 3.0 s",
        "  check clf",
        "    50 of 100 rows, 10 rows/s, 5.0 s left",
    ]
    assert lines[-2:] == ["    100 of 100 rows, 5 rows/s, 0.0 s left", "    30 s in all"]
    assert len(lines) == 2 + 10 / LINES_EVERY_S + 20 / LINES_EVERY_S + 1


def test_events_under_json_are_one_object_a_line(capsys: pytest.CaptureFixture[str]):
    """Steps, rows and the time of each step."""
    an_export(Output(as_json=True, quiet=False))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[:2] == [
        {"event": "stage", "stage": "load clf"},
        {"event": "stage_done", "stage": "load clf", "seconds": 3.0},
    ]
    rows = [it for it in events if it["event"] == "rows"]
    assert rows[0] == {
        "event": "rows",
        "stage": "check clf",
        "done": 50,
        "total": 100,
        "rows_per_s": 10.0,
        "seconds_left": 5,
    }


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]):
    """Neither steps nor rows."""
    an_export(Output(as_json=False, quiet=True))
    assert capsys.readouterr() == ("", "")


def _parts(screen: RawIOBase) -> Iterator[str]:
    """All that was written; the end of a terminal is an error."""
    with contextlib.suppress(OSError):
        while part := screen.read(4096):
            yield part.decode()


def test_terminal_has_one_line_for_a_step(monkeypatch: pytest.MonkeyPatch):
    """It changes in place, with a bar, and its last form is the step with its time."""
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        an_export(Output(as_json=False, quiet=False))
    with os.fdopen(reader, "rb", buffering=0) as screen:
        text = "".join(_parts(screen)).replace("\r\n", "\n")
    first, second, rest = text.split("\n")
    assert first.split("\x1b[K")[-1] == "  load clf: 3.0 s"
    assert "  check clf [##########..........] 50 of 100 rows, 10 rows/s, 5.0 s left" in second.split("\r\x1b[K")
    assert second.split("\x1b[K")[-1] == "  check clf: 30 s"
    assert rest == ""


def test_progress_is_seen_while_the_standard_streams_are_redirected(tmp_path, capfd: pytest.CaptureFixture[str]):
    """As within an export, where the converters' own output goes to a file."""
    from edgeml import workspace  # noqa: PLC0415

    with CliProgress(Output(as_json=False, quiet=False), Clock()) as progress, workspace.quiet(tmp_path):
        progress.stage("check clf")
    assert capfd.readouterr().err == "  check clf: 0.0 s\n"


def test_duration_names_minutes():
    """Tenths for a short time, minutes from 60 s on."""
    assert [duration(it) for it in (3.21, 59.4, 59.96, 125)] == ["3.2 s", "59 s", "1 min 0 s", "2 min 5 s"]


def test_names_that_no_encoding_has_are_escaped(capfd: pytest.CaptureFixture[str]):
    """Linux allows any bytes in a path, and Python holds them as surrogates."""
    with CliProgress(Output(as_json=False, quiet=False), Clock()) as progress:
        progress.stage("load \udcff")
    assert "load \\udcff" in capfd.readouterr().err

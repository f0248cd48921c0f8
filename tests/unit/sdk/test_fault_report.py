"""An unexpected exception is one line with a hint, exit code 70 and a report without secrets; never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest

from edgeml.cli import main
from edgeml.cli.fault_report import as_error, without_secrets

PANIC = type("PanicException", (BaseException,), {})


@pytest.fixture
def failing(monkeypatch, tmp_path: Path):
    """Run `edgeml broken`, a command that raises the given exception."""

    def fail(error: BaseException, *arguments: str) -> int:
        def broken(**_: object) -> None:
            raise error

        options = [click.Option(["--json"], is_flag=True), click.Option(["--broker"]), click.Option(["--password"])]
        command = click.Command("broken", callback=broken, params=options)
        monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: command)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(SystemExit) as ended:
            main.run(["broken", *arguments])
        return int(ended.value.code or 0)

    return fail


@pytest.mark.parametrize("error", [RuntimeError("a tensor\nwas lost"), PANIC("a tensor was lost")])
def test_an_unexpected_exception_is_one_line_with_a_hint_and_a_report(error, failing, tmp_path, capsys):
    """Also a panic of a Rust extension, which `except Exception` lets pass."""
    assert failing(error) == 70
    (report,) = tmp_path.glob("edgeml-report-*.txt")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        f"error[internal]: edgeml failed unexpectedly: {type(error).__name__}: a tensor was lost"
    )
    assert str(report) in lines[0]
    assert [line[:6] for line in lines[1:]] == ["hint: "]
    assert "Traceback (most recent call last)" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def test_ctrl_c_while_an_extension_is_imported_is_no_fault(failing, tmp_path, capsys):
    """A module of C++ makes an ImportError of it; onnxruntime's did so."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    assert failing(error) == 130
    assert "stopped by the operator" in capsys.readouterr().err
    assert not list(tmp_path.glob("edgeml-report-*.txt"))


def test_json_has_the_fault_as_any_other_error(failing, capsys):
    """Under `--json` stdout is one JSON document and stderr is empty."""
    assert failing(KeyError("weights"), "--json") == 70
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["code"] == "internal"
    assert printed.err == ""


def test_a_report_holds_no_secret(failing, tmp_path, capsys):
    """Neither the options' values nor user and password in the exception's own text."""
    error = RuntimeError("no answer from mqtt://ann:pw-in-url@host")
    assert failing(error, "--broker", "mqtt://ann:pw-in-url@host", "--password", "pw-in-option") == 70
    (report,) = tmp_path.glob("edgeml-report-*.txt")
    text = report.read_text()
    assert "command: edgeml broken --broker mqtt://********@host --password ********" in text
    assert "Python 3." in text
    assert "pw-in" not in text + capsys.readouterr().err


def test_secrets_are_replaced_in_each_form_of_an_option():
    """The value may stand behind the option or behind a `=`; a path to a secret is none."""
    assert without_secrets(["--token=abc", "--token-file", "t.txt", "out"]) == [
        "--token=********",
        "--token-file",
        "t.txt",
        "out",
    ]


def test_an_unwritable_folder_for_reports_is_named(monkeypatch, tmp_path):
    """The error is the same, and its hint gives the way to a report."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    error = as_error(ValueError("odd"), [])
    assert (error.code, error.exit_code) == ("internal", 70)
    assert "TMPDIR" in error.hint


def test_too_little_memory_is_no_fault(failing, tmp_path, capsys):
    """It is this machine's, exit code 6, and needs no report."""
    assert failing(MemoryError()) == 6
    assert "error[memory-short]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_stays_an_interrupt(failing, capsys):
    """Ctrl-C is exit code 130, as before."""
    assert failing(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_real_program_ends_with_70():
    """In a process of its own, where nothing catches what leaves `run`."""
    code = (
        "import edgeml.cli.config as c; from edgeml.cli.main import run;"
        "c.files = lambda: 1 / 0; run(['config', 'show', '--json'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    error = json.loads(ended.stdout)["error"]
    assert (ended.returncode, error["code"], ended.stderr) == (70, "internal", "")
    Path(error["message"].rpartition(" ")[2]).unlink()

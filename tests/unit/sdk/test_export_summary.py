"""What `edgeml export` prints at its end: the table, each warning once, and the commands that come next."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from edgeml.bundles import Bundle
from edgeml.cli import export
from edgeml.cli.main import edgeml
from edgeml.cli.output import Output
from support import task_models

TASKS = ("text-classification", "question-answering", "text-generation")


def bundles(folder: Path, *tasks: str) -> list[Bundle]:
    """One bundle of each task, in a folder whose name has a space."""
    (folder / "the out").mkdir()
    paths = [folder / "the out" / f"{task}.edgeml" for task in tasks]
    for path, task in zip(paths, tasks, strict=True):
        task_models.bundle(path, task)
    return [Bundle.open(path) for path in paths]


def test_summary_has_a_warning_of_all_bundles_once(tmp_path: Path):
    """Warnings of one of several are named with it."""
    made = bundles(tmp_path, *TASKS)
    lines = export._summary(made).splitlines()
    assert lines.count(f"warning: {task_models.WARNING}") == 1


def test_summary_names_the_bundle_that_a_warning_is_of(tmp_path: Path):
    """One of two has it."""
    first, second = bundles(tmp_path, *TASKS[:2])
    card = msgspec.structs.replace(second.card, warnings=())
    second = dataclasses.replace(second, manifest=msgspec.structs.replace(second.manifest, card=card))
    assert f"warning: mood-1.0-x86-vnni-onnx: {task_models.WARNING}" in export._summary([first, second])


@pytest.mark.parametrize("task", TASKS)
def test_next_commands_run_as_they_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str):
    """`inspect` and `run` with the bundle just made, typed into a shell."""
    export._print(Output(as_json=False, quiet=False), bundles(tmp_path, task), None)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "next:"
    for line in lines[:2]:
        program, *arguments = shlex.split(line)
        assert program == "edgeml"
        assert CliRunner().invoke(edgeml, arguments).exit_code == 0, line
    assert lines[-1].endswith(".edgeml' --repo FOLDER")


def test_next_command_takes_the_rows_of_the_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The file of --evaluate, each row of which is answered."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nit works well,positive\nbad,negative\n")
    export._print(Output(as_json=False, quiet=False), bundles(tmp_path, TASKS[0]), rows)
    run = capsys.readouterr().err.splitlines()[2]
    found = CliRunner().invoke(edgeml, shlex.split(run)[1:])
    assert len(found.stdout.splitlines()) == 2

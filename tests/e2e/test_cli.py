"""The command line as people meet it: help with examples everywhere, exit codes and hints as documented."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgeml.cli.main import edgeml
from support.samples import a_bundle

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd, text=None, **environment):
    """Run `edgeml` as its own process, far from any configuration."""
    variables = {**os.environ, "HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd / ".config"), **environment}
    command = [sys.executable, "-m", "edgeml", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, input=text, check=False)


def commands(command=edgeml, path=()):
    """Every command's path and object."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.get_command(click.Context(command), name), (*path, name))
    else:
        yield path, command


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_examples_and_json(path, command):
    """A person finds out from --help alone how it is called."""
    text = command.get_help(click.Context(command, info_name=f"edgeml {' '.join(path)}"))
    assert f"  edgeml {' '.join(path)}" in text.partition("Examples:")[2]
    assert {"--json", "--quiet"} <= {name for option in command.params for name in option.opts}


def test_help_imports_no_command(tmp_path):
    """`edgeml --help` stays fast because it loads nothing heavy (benchmarks/startup.py has the time)."""
    code = (
        "import sys; sys.argv = ['edgeml', '--help']\n"
        "try:\n    from edgeml.__main__ import main; main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'numpy', 'onnxruntime', 'rich', 'aiomqtt', 'tuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def bundle(tmp_path, data=None):
    """A bundle file; its model can't run, which inspect doesn't mind."""
    path = tmp_path / "sample-1.0-rpi4-onnx.edgeml"
    path.write_bytes(data or a_bundle())
    return path


ERRORS = [
    (["nonsense"], 2, "usage"),
    (["export", "model", "-o", "out"], 2, "usage"),
    (["export", "no-such-model", "--target", "rpi4", "-o", "out"], 2, "model-unreadable"),
    (["export", "no-such-model", "--target", "rpi44", "-o", "out"], 2, "target-unknown"),
    (["export", "m", "--target", "rpi4", "--max-drop", "lots", "-o", "out"], 2, "usage"),
    (["inspect", "absent.edgeml"], 2, "usage"),
    (["inspect", "garbage.edgeml"], 4, "bundle-format"),
    (["run", "absent.edgeml", "--input", "{}"], 2, "usage"),
    (["run", "garbage.edgeml", "--input", "{"], 2, "input-invalid"),
    (["verify", "garbage.edgeml"], 4, "bundle-format"),
    (["verify", "damaged.edgeml"], 4, "digest-mismatch"),
    (["target", "show", "rpi44"], 2, "target-unknown"),
    (["target", "check", "garbage.edgeml"], 2, "target-invalid"),
    (["publish", "garbage.edgeml", "--repo", "nowhere"], 2, "repo-invalid"),
    (["repo", "refresh", "--repo", "nowhere"], 2, "repo-invalid"),
    (["device", "enroll", "A b", "--repo", "nowhere", "-o", "d"], 2, None),
    (["fleet", "deploy", "m", "--repo", "nowhere", "--to", "a=b"], 2, "repo-invalid"),
    (["fleet", "deploy", "m", "--repo", "nowhere", "--percent", "1"], 2, "usage"),
    (["fleet", "status", "--repo", "nowhere"], 2, "repo-invalid"),
    (["fleet", "serve", "--repo", "nowhere", "--broker", "mqtt://127.0.0.1:1"], 2, "repo-invalid"),
]


@pytest.mark.parametrize(("arguments", "exit_code", "code"), ERRORS, ids=[" ".join(case[0]) for case in ERRORS])
def test_each_error_has_its_exit_code_and_a_remedy(arguments, exit_code, code, tmp_path):
    """In words on stderr, as one JSON object on stdout; never a traceback, nothing left behind."""
    (tmp_path / "garbage.edgeml").write_bytes(b"garbage")
    damaged = bytearray(a_bundle())
    damaged[damaged.index(bytes(range(256)) * 2)] ^= 1
    (tmp_path / "damaged.edgeml").write_bytes(damaged)
    before = sorted(tmp_path.rglob("*"))
    words, machine = run(*arguments, cwd=tmp_path), run(*arguments, "--json", cwd=tmp_path)
    assert (words.returncode, machine.returncode) == (exit_code, exit_code), words.stderr
    assert re.search(r"^error\[[a-z-]+\]: .+", words.stderr, re.MULTILINE)
    assert "Traceback" not in words.stderr
    error = json.loads(machine.stdout.splitlines()[-1])["error"]
    assert error["code"] == (code or error["code"])
    assert error["hint"]
    assert sorted(tmp_path.rglob("*")) == before


def test_inspect_prints_the_card(tmp_path):
    """As a table for people and as JSON for programs."""
    path = bundle(tmp_path)
    words = run("inspect", path, cwd=tmp_path)
    assert words.returncode == 0
    assert "cosine 1.0000 to pytorch over 1 rows" in words.stdout
    assert "not measured" in words.stdout
    found = json.loads(run("inspect", path, "--json", cwd=tmp_path).stdout)
    assert found["manifest"]["name"] == "sample"
    assert found["measurements"] is None


def test_settings_come_from_flag_environment_and_files_in_that_order(tmp_path):
    """`edgeml config show` names the origin of each."""
    (tmp_path / "edgeml.toml").write_text('[export]\ntarget = ["rpi4"]\nmax-drop = "2%"\n')
    shown = json.loads(run("config", "show", "--json", cwd=tmp_path, EDGEML_EXPORT_VERSION="7").stdout)["settings"]
    assert shown["export.max_drop"] == {"value": "2%", "origin": "edgeml.toml"}
    assert shown["export.version"] == {"value": "7", "origin": "EDGEML_EXPORT_VERSION"}
    from_file = run("export", "absent", "-o", "out", "--json", cwd=tmp_path, EDGEML_EXPORT_TASK="nonsense")
    assert "nonsense" in json.loads(from_file.stdout)["error"]["message"]


def test_a_broken_settings_file_is_named(tmp_path):
    """It is not silently ignored."""
    (tmp_path / "edgeml.toml").write_text("[export\n")
    failed = run("target", "list", cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error[config-invalid]: edgeml.toml")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell, tmp_path):
    """Each shell gets its own."""
    assert "_EDGEML_COMPLETE" in run("completion", shell, cwd=tmp_path).stdout


def test_the_generated_docs_are_true():
    """docs/ says what the code's tables say."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [("target", "list"), ("target", "show", "nonsense")])
def test_output_that_nobody_reads_prints_no_traceback(arguments, tmp_path):
    """The reader has closed the pipe, of a result or of an error."""
    command = [sys.executable, "-m", "edgeml", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()


def test_an_export_stopped_in_the_middle_leaves_nothing(tmp_path):
    """Ctrl-C ends it with 130 and removes its working folder."""
    model = f"{ROOT / 'examples' / 'digits.py'}:digits"
    asked = ("export", model, "--target", "x86-gateway", "--format", "onnx", "-o", "out")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeml", *asked], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    for line in process.stderr:
        if line.strip().startswith("export onnx"):
            process.send_signal(signal.SIGINT)
            break
    words = process.stderr.read()
    assert process.wait() == 130, words
    assert "error[interrupted]" in words
    assert list(tmp_path.iterdir()) == []

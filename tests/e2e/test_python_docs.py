"""docs/python.md, the examples in docstrings and the notebook: what they show is what happens, with a real model."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeml

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The public names whose docstrings have examples, in the order in which those build on each other.
DOCUMENTED = (edgeml.export, edgeml.Bundle, edgeml.Repository, edgeml.Fleet)


def check(examples, namespace):
    """Run the examples of a text as doctest does; report each that differs."""
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    examples.globs = namespace
    runner.run(examples, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)
    return runner.tries


def members(value):
    """The docstrings of a function, or of a class and its methods in the order of the source."""
    yield value.__name__, value.__doc__
    if isinstance(value, type):
        for name, member in vars(value).items():
            inner = getattr(member, "__func__", getattr(member, "fget", None) or member)
            if not name.startswith("_") and getattr(inner, "__doc__", None):
                yield f"{value.__name__}.{name}", inner.__doc__


def test_python_page_and_docstrings_run_from_top_to_bottom(tmp_path, monkeypatch):
    """All blocks in one namespace, then the examples of the docstrings, which begin with the bundle of the page."""
    monkeypatch.chdir(tmp_path)
    namespace, parser = {}, doctest.DocTestParser()
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = [(text.count("\n", 0, it.start(2)) + 1, it[1], it[2]) for it in BLOCK.finditer(text)]
    for line, kind, source in blocks:
        if kind == "python":
            exec(compile("\n" * (line - 1) + source, "docs/python.md", "exec"), namespace)  # noqa: S102 - our page
        else:
            check(parser.get_doctest(source, namespace, "docs/python.md", "docs/python.md", line), namespace)
    assert {kind for _, kind, _ in blocks} == {"python", "pycon"}
    names = {name: getattr(edgeml, name) for name in edgeml.__all__}
    documented = names | {"bundle": namespace["bundle"]}
    tried = 0
    for name, docstring in (it for value in DOCUMENTED for it in members(value)):
        tried += check(parser.get_doctest(docstring, documented, name, name, 0), documented)
    assert tried >= 15


@pytest.mark.nightly
def test_notebook_goes_from_a_model_in_memory_to_an_answer(tmp_path):
    """As a program: every message gets its desk, and the release is deployed."""
    command = [sys.executable, ROOT / "examples" / "notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert answers["a ewe is limping badly since yesterday"] == "vet"
    assert answers["the infusion pump reports an alarm"] == "ward"
    assert answers["the tractor won't start"] == "workshop"
    assert done.stdout.splitlines()[-1] == "triage-1-2 for barn-1"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fleet", "barn-1"}

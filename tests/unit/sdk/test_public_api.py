"""`import edgeml`: light, complete, typed, and not shadowed by its own submodules."""

from __future__ import annotations

import importlib
import pkgutil
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import edgeml
from edgeml_core import errors

#: CPU seconds that `import edgeml` may add to an empty program; unlike wall time they don't depend on other load.
IMPORT_MAX_S = 0.06
RUNS = 7


def seconds(code: str) -> float:
    """Measure the CPU time of a program in a fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_import_adds_at_most_60_ms_to_an_empty_program():
    """Both programs by turns, their least times compared."""
    pairs = [(seconds("pass"), seconds("import edgeml")) for _ in range(RUNS)]
    empty, importing = (min(times) for times in zip(*pairs, strict=True))
    assert importing - empty <= IMPORT_MAX_S, pairs


@pytest.mark.parametrize(
    "code",
    [
        "import edgeml",
        "import edgeml; edgeml.Bundle, edgeml.export, edgeml.UsageError, edgeml.Progress, edgeml.__version__",
        "import edgeml; edgeml.Repository, edgeml.Fleet, dir(edgeml)",
    ],
)
def test_import_loads_no_heavy_library(code: str):
    """Nor does the first use of a name: only the call that needs torch, a runtime or MQTT imports it."""
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "aiomqtt", "click")
    listed = f"{code}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_submodule_has_the_name_of_a_public_name():
    """Found without importing one."""
    submodules = {it.name for it in pkgutil.iter_modules(edgeml.__path__)}
    assert submodules & set(edgeml.__all__) == set()


def test_every_public_name_is_there_and_listed():
    """In `dir`, by attribute and by `from edgeml import *`."""
    assert set(edgeml.__all__) <= set(dir(edgeml))
    for name in edgeml.__all__:
        assert getattr(edgeml, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = edgeml.nonsense


def test_python_page_names_all_public_names_and_methods():
    """A reader finds each in docs/python.md."""
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    classes = (edgeml.Bundle, edgeml.Repository, edgeml.Fleet)
    methods = {name for it in classes for name in dir(it) if not name.startswith("_")}
    names = {name for name in edgeml.__all__ if not name.startswith("_")}
    assert sorted(name for name in methods | names if not re.search(rf"[`.]{name}[`(]", page)) == []


def test_errors_are_those_of_every_part():
    """One family: `except edgeml.EdgemlError` catches them all."""
    assert edgeml.EdgemlError is errors.EdgemlError
    families = (edgeml.UsageError, edgeml.GateFailed, edgeml.RejectedError, edgeml.TransportError, edgeml.DeviceError)
    assert all(issubclass(family, edgeml.EdgemlError) for family in families)


def test_types_are_seen_by_a_type_checker(tmp_path: Path):
    """A type checker knows the names that are imported late, and refuses a wrong argument."""
    program = tmp_path / "program.py"
    program.write_text(
        "import edgeml\n"
        "bundles: list[edgeml.Bundle] = edgeml.export('model', ['rpi4'], max_drop=0.02, formats=['onnx'])\n"
        "edgeml.Repository.open('repo').publish(*bundles)\n"
        "edgeml.export('model', ['rpi4'], max_drop='much')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--strict", str(program)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(found) == 1, done.stdout
    assert "program.py:4: error" in found[0]
    assert "max_drop" in found[0]


def test_py_typed_is_packaged():
    """Type checkers read the annotations of an installed edgeml."""
    assert (Path(importlib.import_module("edgeml").__file__).parent / "py.typed").is_file()

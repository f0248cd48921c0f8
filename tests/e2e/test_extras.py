"""Each extra installed alone in an environment of its own: what works there, what is absent, and the errors then."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import cache

pytestmark = pytest.mark.network

ROOT = Path(__file__).parents[2]
IMPORT_CORE = """
import importlib, pkgutil, edgeml_core
for module in pkgutil.iter_modules(edgeml_core.__path__):
    importlib.import_module(f"edgeml_core.{module.name}")
"""
TRAINING = {"torch", "transformers", "onnx", "optimum", "litert-torch"}


class Environment:
    """A virtual environment with nothing but edgeml and one extra; edgeml is this clone's, the rest may be cached."""

    def __init__(self, folder):
        self.bin = folder / "bin"
        self.variables = {**os.environ, "PYTHONPATH": "", "HOME": str(folder)}

    @classmethod
    def make(cls, folder, extra):
        """Make the environment in an empty folder."""
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        cls(folder).install("--constraint", ROOT / "constraints.txt", f"{ROOT}{extra}")

    def install(self, *what):
        """Install with pip."""
        self.run("python", "-m", "pip", "install", "--quiet", "--no-cache-dir", *what)

    def run(self, program, *arguments, code=0):
        """Run a program of the environment; its exit code must be `code`."""
        done = subprocess.run(
            [self.bin / program, *arguments], capture_output=True, text=True, env=self.variables, cwd="/", check=False
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done

    def distributions(self):
        """What is installed, by name."""
        listed = self.run("python", "-m", "pip", "list", "--format", "json").stdout
        return {entry["name"].lower() for entry in json.loads(listed)}


@contextmanager
def environment(name: str, extra: str) -> Iterator[Environment]:
    """Lend the cached environment of an extra, with this clone's edgeml in it."""
    with cache.kept(f"environment-{name}", lambda folder: Environment.make(folder, extra)) as folder:
        found = Environment(folder)
        found.install("--no-deps", "--force-reinstall", ROOT)
        yield found


@pytest.fixture(scope="module")
def agent():
    """`pip install edgeml-deploy[agent]`, from the checkout."""
    with environment("agent", "[agent]") as found:
        yield found


@pytest.fixture(scope="module")
def bare():
    """`pip install edgeml-deploy`, from the checkout."""
    with environment("bare", "") as found:
        yield found


def test_agent_extra_installs_no_training_library(agent):
    """A device never carries torch, transformers or onnx."""
    assert TRAINING & agent.distributions() == set()


def test_doctor_with_agent_extra_passes(agent):
    """With no configuration and no TFLite runtime, nothing is wrong."""
    checks = json.loads(agent.run("edgeml-agent", "doctor", "--json").stdout)["checks"]
    assert {check["name"] for check in checks} >= {"python", "cpu", "onnxruntime", "imports"}
    assert [check for check in checks if check["status"] == "failed"] == []


def test_export_without_its_extra_names_the_install(agent):
    """One line, no traceback."""
    failed = agent.run("edgeml", "export", "model", "--target", "rpi4", "-o", "out", code=2)
    assert failed.stderr.splitlines()[-1] == "hint: pip install 'edgeml-deploy[export]'"
    assert "Traceback" not in failed.stderr


def test_installed_package_has_targets(agent):
    """Boards are found without the source beside them."""
    assert "rpi4" in agent.run("edgeml", "target", "list").stdout


@pytest.mark.nightly
def test_core_with_base_dependencies_imports(bare):
    """The base dependencies are core's, and core needs nothing else."""
    bare.run("python", "-c", IMPORT_CORE)
    assert {"numpy", "click", "onnxruntime", "aiomqtt"} & bare.distributions() == set()


@pytest.mark.nightly
def test_programs_without_extras_name_the_install(bare):
    """Neither ends in a traceback."""
    for command, extra in (("edgeml --help", "export"), ("edgeml-agent run --config x", "agent")):
        failed = bare.run(*command.split(), code=2)
        assert f"pip install 'edgeml-deploy[{extra}]'" in failed.stderr
        assert "Traceback" not in failed.stderr

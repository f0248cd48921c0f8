"""The distribution `edgeml-deploy`: wheel and sdist as `make dist` builds them, and README's install lines."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from support import cache

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: By extra: a program that works with nothing else installed.
PROGRAMS = {
    "agent": "from edgeml_agent import main",
    "demo": "import amqtt.broker; from edgeml.demo import scenario; assert scenario.encoder().is_dir()",
    "dev": "import build, hypothesis, mypy, pytest, ruff, twine",
    "export": "import edgeml.pipeline.export, optimum.onnxruntime",
    "export-gguf": "import edgeml.exporters.gguf.source, gguf",
    "export-peft": "import peft, edgeml.exporters.huggingface.merged_adapter",
    "export-sklearn": "import skl2onnx, edgeml.exporters.sklearn_pipeline",
    "export-timm": "from edgeml.exporters import timm_folder; timm_folder._timm()",
    "export-keras": "import edgeml.exporters.keras_file, edgeml.oracle.keras_model",
    "export-boosting": "import onnxmltools, edgeml.exporters.sklearn_pipeline",
    "export-tflite": "import ai_edge_quantizer, litert_torch",
    "fleet": "import edgeml, edgeml.fleet.serve; edgeml.Repository.init('repo', passphrase='')",
    "fleet-postgres": "import psycopg, sqlalchemy; sqlalchemy.create_engine('postgresql+psycopg://nobody@localhost/fleet')",
    "fleet-s3": "from edgeml.repository.bucket import Bucket; Bucket('s3://chunks')",
    "tflite": "import ai_edge_litert.interpreter",
    "guidance": "import llguidance",
    "sound": "import soundfile, soxr",
    "tflite-legacy": "import tflite_runtime.interpreter, numpy; assert numpy.__version__ < '2'",
}
#: The only extra for older versions than constraints.txt names.
UNCONSTRAINED = ("tflite-legacy",)


def execute(*command, cwd):
    """Run a command to its end; it must succeed."""
    variables = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path):
    """The interpreter of a new and empty environment, which is removed at the end."""
    execute(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    yield tmp_path / "venv" / "bin" / "python"
    shutil.rmtree(tmp_path / "venv")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the files that git knows, with `dist/` as `make dist` builds it."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = execute("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    execute(sys.executable, "-m", "build", "--outdir", "dist", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout):
    """The wheel; it was built from the sdist."""
    (found,) = (checkout / "dist").glob("*.whl")
    return found


def test_twine_accepts_wheel_and_sdist(checkout):
    """The package index would."""
    files = sorted((checkout / "dist").iterdir())
    assert [path.name.split("-")[0] for path in files] == ["edgeml_deploy", "edgeml_deploy"]
    execute(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=checkout)


def test_the_wheel_has_every_package_and_nothing_else(wheel):
    """The import packages, with their data; no tests, no documents."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.split("/")[0] for name in names}
    assert {name for name in packages if not name.endswith(".dist-info")} == {
        *("edgeml", "edgeml_agent", "edgeml_core", "edgeml_io", "edgeml_origin", "edgeml_runtime"),
    }
    assert {"edgeml/py.typed", "edgeml/targets/rpi4.toml", "edgeml/report/style.css"} <= set(names)


def test_the_sdist_has_what_a_checkout_needs(checkout):
    """To build, to test and to read."""
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "Makefile", "constraints.txt", "tests/conftest.py", "docs/python.md"} <= names


def test_every_extra_has_a_program():
    """A new extra is tested, too."""
    assert set(PROGRAMS) == set(PROJECT["optional-dependencies"])


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("extra", sorted(PROGRAMS))
def test_the_wheel_installs_with_an_extra(wheel, tmp_path, extra):
    """In an environment of its own: all dependencies are there, fit together, and can be imported.

    The test cache keeps the environment; the wheel is installed into it again.
    """
    bounds = () if extra in UNCONSTRAINED else ("--constraint", ROOT / "constraints.txt")
    install = ("-m", "pip", "install", "--quiet", "--no-cache-dir")

    def make(folder):
        execute(sys.executable, "-m", "venv", folder, cwd=tmp_path)
        execute(folder / "bin" / "python", *install, *bounds, f"{wheel}[{extra}]", cwd=tmp_path)

    with cache.kept(f"wheel-{extra}", make) as folder:
        python = folder / "bin" / "python"
        execute(python, *install, "--no-deps", "--force-reinstall", wheel, cwd=tmp_path)
        execute(python, "-m", "pip", "check", cwd=tmp_path)
        execute(python, "-c", PROGRAMS[extra], cwd=tmp_path)


def install_lines():
    """The commands in README that install edgeml, without their comments."""
    text = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n## ")[0]
    return re.findall(r"^pip (install .*?)\s*(?:#.*)?$", text, re.MULTILINE)


def test_readme_names_the_distribution_and_warns_of_the_other():
    """`pip install edgeml` would install a stranger's code."""
    assert PROJECT["name"] == "edgeml-deploy"
    assert len(install_lines()) >= 3
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in path.read_text().splitlines():
            assert not re.search(r"pip install (-\S+ )*'?edgeml(\[|'|\s|$)", line) or "another project" in line, line
    assert "`pip install edgeml` installs another project" in (ROOT / "README.md").read_text()


# By day test_extras.py installs the checkout.
@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("line", install_lines())
def test_readmes_install_lines_work_in_a_checkout(checkout, python, line):
    """As they stand, with an index that doesn't have edgeml-deploy."""
    printed = execute(python, "-m", "pip", *(argument.strip("'") for argument in line.split()), cwd=checkout)
    assert "edgeml-deploy" in printed.replace("_", "-")
    execute(python.with_name("edgeml-agent"), "--version", cwd=checkout)

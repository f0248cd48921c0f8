"""Environments of the tools that edgeml is compared with: one for each, apart from edgeml's own, with pinned versions.

They are made below `.venv-rivals` in the project's root when a full run needs them first. A quick run makes none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.figures import Omission

ENVIRONMENTS: Final = Path(os.environ.get("EDGEML_RIVALS", Path(__file__).parents[2] / ".venv-rivals"))
REQUIREMENTS: Final = Path(__file__).parents[1] / "rivals"
#: The file that holds the digest of the requirements; it is written when all are installed.
STAMP: Final = ".requirements"
#: Packages that the report names.
NAMED: Final = (
    *("openvino", "nncf", "mlserver", "kserve", "litserve"),
    *("llama-cpp-python", "onnxruntime-genai", "ctranslate2"),
)
#: llama.cpp's AMX kernels end in an illegal instruction on some hosts, so its build leaves them out.
_NO_AMX: Final = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
#: Environment variables of an installation that compiles. The build is for this CPU, so pip's cache has no part in it.
BUILDS: Final = {
    "llama-cpp-python": {
        "CMAKE_ARGS": f"-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS='{_NO_AMX}' -DCMAKE_CXX_FLAGS='{_NO_AMX}'",
        "PIP_NO_BINARY": "llama-cpp-python",
        "PIP_NO_CACHE_DIR": "1",
    }
}


class RivalUnavailableError(Exception):
    """A rival's environment is not there; the message is the reason."""

    def omission(self, name: str) -> Omission:
        """Return the note for the report."""
        return Omission(name=name, reason=str(self))


def programs(name: str, *, installs: bool) -> Path:
    """Return the folder of programs of a rival's environment.

    Args:
        name: the rival's name in lower case, as its requirement file has it.
        installs: whether to make the environment when it is missing.

    Raises:
        RivalUnavailableError: the environment is missing, or it can't be made.
    """
    folder, requirements = ENVIRONMENTS / name, REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / STAMP
    if not (stamp.exists() and stamp.read_text() == digest):
        if not installs:
            raise RivalUnavailableError("its environment is missing, and a quick run makes none")
        _install(folder, requirements)
        stamp.write_text(digest)
    return folder / "bin"


def packages(name: str, *, installs: bool) -> Path:
    """Return the folder of packages of a rival's environment.

    Args:
        name: as of `programs`.
        installs: as of `programs`.

    Raises:
        RivalUnavailableError: as of `programs`.
    """
    return next(programs(name, installs=installs).parent.glob("lib/python*/site-packages"))


def version(name: str) -> str:
    """Return the pinned version of a rival."""
    pins = dict(line.split("==") for line in (REQUIREMENTS / f"{name}.txt").read_text().split())
    return pins[name]


def versions() -> dict[str, str]:
    """Return the versions of the rivals that this run could use: their environments are there."""
    found = {}
    for requirements in sorted(REQUIREMENTS.glob("*.txt")):
        if (ENVIRONMENTS / requirements.stem / STAMP).exists():
            pins = dict(line.split("==") for line in requirements.read_text().split())
            found |= {name: pins[name] for name in NAMED if name in pins and name not in found}
    return found


def _install(folder: Path, requirements: Path) -> None:
    print(f"installing {requirements.stem} into {folder.name}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    # The requirements are complete. Some converters name torch, which they find in edgeml's own environment.
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", requirements]
    environment = os.environ | BUILDS.get(folder.name, {})
    for command in ([sys.executable, "-m", "venv", folder], pip):
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if ran.returncode:
            lines = [it for it in (ran.stderr or ran.stdout).splitlines() if it.strip()]
            raise RivalUnavailableError(f"it can't be installed: {lines[-1] if lines else 'no message'}")

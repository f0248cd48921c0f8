"""What a sweep found of a release, kept in the release's own folder: it goes with it, and counts as its bytes.

    releases/START-OF-DIGEST/.tuned/tuned.json, and model.onnx with its weights where they were prepared

No manifest can list a name that begins with a dot. What was found on another CPU, with another runtime or by another
sweep is worth nothing, and what can't be read isn't there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.manifest import Manifest
from edgeml_core.messages import Tuned
from edgeml_io import files
from edgeml_runtime import engines
from edgeml_runtime.hardware import board

FOLDER_NAME: Final = ".tuned"
FILE_NAME: Final = "tuned.json"
#: Of the sweep: with another one, everything is found out anew.
REVISION: Final = 1
_UNFINISHED: Final = ".tuned.new"


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """Where something was found out."""

    cpu: str
    cores: int
    runtime: str
    revision: int = REVISION


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    where: Circumstances
    found: Tuned


def here(manifest: Manifest) -> Circumstances:
    """This machine, and the runtime that a bundle needs."""
    engine = manifest.runtime.engine
    runtime = f"{engine} {engines.installed().get(engine, '')}"
    return Circumstances(cpu=board.this_machine().cpu, cores=len(os.sched_getaffinity(0)), runtime=runtime)


def read(folder: Path, manifest: Manifest) -> Tuned | None:
    """What was found of the release in `folder` in these circumstances; None when that is nothing."""
    try:
        kept = msgspec.json.decode((folder / FOLDER_NAME / FILE_NAME).read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept.found if kept.where == here(manifest) else None


def prepared(folder: Path, manifest: Manifest) -> Path:
    """The model file whose weights were prepared for this machine, where they were."""
    return folder / FOLDER_NAME / Path(manifest.model).name


def unfinished(folder: Path) -> Path:
    """An empty folder for what a sweep writes; `keep` gives it its place."""
    made = folder / _UNFINISHED
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    return made


def keep(folder: Path, manifest: Manifest, found: Tuned) -> None:
    """Let what was found count from the next load on; a power cut leaves all of it or nothing."""
    made = folder / _UNFINISHED
    kept = _Kept(where=here(manifest), found=found)
    (made / FILE_NAME).write_bytes(msgspec.json.encode(kept))
    files.sync_tree(made)
    discard(folder)
    made.replace(folder / FOLDER_NAME)
    files.sync(folder)


def discard(folder: Path) -> None:
    """Forget what was found: the release runs as it was exported."""
    shutil.rmtree(folder / FOLDER_NAME, ignore_errors=True)

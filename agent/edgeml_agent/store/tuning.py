"""A release's tuning, stored in the release's own folder: it is removed with it, and counts as its bytes.

    releases/START-OF-DIGEST/.tuned/tuned.json, and model.onnx with its weights where they were prepared

No manifest can list a name that begins with a dot. Tuning from another CPU, runtime or revision of `probe.autotune` is
ignored, and so is a file that can't be read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core import decoding
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Tuned
from edgeml_io import files
from edgeml_runtime import engines
from edgeml_runtime.hardware import board

FOLDER_NAME: Final = ".tuned"
FILE_NAME: Final = "tuned.json"
#: Revision of the method: another one makes devices tune again.
REVISION: Final = 1
_DRAFT_NAME: Final = ".tuned.new"


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware and software that a tuning holds for."""

    cpu: str
    cores: int
    runtime: str
    revision: int = REVISION


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    where: Environment
    found: Tuned


def current_environment(manifest: Manifest) -> Environment:
    """Return this host's environment, with the runtime that the bundle needs."""
    engine = manifest.runtime.engine
    runtime = f"{engine} {engines.installed().get(engine, '')}"
    return Environment(cpu=board.this_machine().cpu, cores=len(os.sched_getaffinity(0)), runtime=runtime)


def read(folder: Path, manifest: Manifest) -> Tuned | None:
    """Return the tuning of the release in `folder` for this environment; None if there is none."""
    try:
        kept = decoding.from_json((folder / FOLDER_NAME / FILE_NAME).read_bytes(), _Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept.found if kept.where == current_environment(manifest) else None


def prepared(folder: Path, manifest: Manifest) -> Path:
    """Return the path of the model file whose weights were prepared for this host."""
    return folder / FOLDER_NAME / Path(manifest.model).name


def make_draft(folder: Path) -> Path:
    """Make an empty folder for the tuner's files; `commit` moves it into place."""
    draft = folder / _DRAFT_NAME
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return draft


def commit(folder: Path, manifest: Manifest, found: Tuned) -> None:
    """Make a tuning effective from the next load on; a power cut leaves all of it or nothing."""
    draft = folder / _DRAFT_NAME
    kept = _Kept(where=current_environment(manifest), found=found)
    (draft / FILE_NAME).write_bytes(msgspec.json.encode(kept))
    files.sync_tree(draft)
    discard(folder)
    draft.replace(folder / FOLDER_NAME)
    files.sync(folder)


def discard(folder: Path) -> None:
    """Remove the tuning: the release runs as exported."""
    shutil.rmtree(folder / FOLDER_NAME, ignore_errors=True)

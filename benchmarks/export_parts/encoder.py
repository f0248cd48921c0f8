"""The encoder that programs export, race and serve: MiniLM, or a tiny one with random weights in a quick run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.manifest import Format
from export_parts import texts
from harness.figures import Run

MINILM: Final = "minilm"
TINY: Final = "tiny-encoder"


def name(run: Run) -> str:
    """Return the encoder's name in this kind of run."""
    return run.size(MINILM, TINY)


def original(run: Run) -> Path:
    """Return the encoder's folder of transformers."""
    if not run.is_quick:
        return texts.MINILM
    folder = run.folder / TINY
    return folder if folder.exists() else texts.random_bert(folder, width=64, layers=2, heads=4)


def bundles(run: Run, formats: Sequence[Format]) -> list[Path]:
    """Export the encoder for this machine in each format, as `edgeml export` does, unless `run.models` has it."""
    target = targets.this_machine().name
    paths = [run.models / f"{name(run)}-1-{target}-{file_format}.edgeml" for file_format in formats]
    if missing := [it for it, path in zip(formats, paths, strict=True) if not path.exists()]:
        export(
            ExportRequest(
                model=str(original(run)), targets=[target], formats=missing, name=name(run), output=run.models
            )
        )
    return paths

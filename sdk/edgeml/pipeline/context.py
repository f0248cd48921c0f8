"""One export under way: its request, the loaded model, and its working folder. `edgeml.pipeline.export` makes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeml.check.checks import Checks
from edgeml.check.gate import Limits
from edgeml.exporters.source import Source
from edgeml.memo import Memo
from edgeml.pipeline import pack
from edgeml.pipeline.request import ExportRequest, Progress


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export."""

    request: ExportRequest
    progress: Progress
    folder: Path
    source: Source
    release: pack.Release
    checks: Checks
    limits: Limits
    once: Memo
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_folder(self) -> Path:
        """Make an empty folder."""
        path = self.folder / f"{next(self.numbers)}"
        path.mkdir()
        return path

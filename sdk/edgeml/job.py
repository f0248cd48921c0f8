"""One export under way: what was asked, what was loaded, where work lies. Made by `edgeml.pipeline`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeml import pack
from edgeml.check.checks import Checks
from edgeml.check.gate import Limits
from edgeml.export.once import Once
from edgeml.export.request import ExportRequest, Progress
from edgeml.export.source import Source


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
    once: Once
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_folder(self) -> Path:
        """An empty folder."""
        path = self.folder / f"{next(self.numbers)}"
        path.mkdir()
        return path

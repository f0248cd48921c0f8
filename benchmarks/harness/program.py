"""Run one benchmark program: read its options, measure its parts, and write its report.

A program is a table of parts. Each part names modules with a function `figures(run)` that yields its outcomes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from harness import report
from harness.figures import Figure, Outcome, Run, without_aims
from harness.report import ProgramReport

#: Parts by name, each with the modules that measure it.
Parts = Mapping[str, Sequence[str]]
ROOT: Final = Path(__file__).parents[2]
#: Set before any library is imported: no hub, no telemetry, no advice.
ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main(description: str, parts: Parts, quick: Sequence[str] = ()) -> None:
    """Run a program from its command line.

    Args:
        description: the program's docstring, which is its help.
        parts: the program's parts.
        quick: the parts of a quick run that names none; by default all.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    # No `choices`: Python 3.11 holds the default of `nargs="*"` against them as one value.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(parts)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="run for seconds, with small models")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="keep the models there, and reuse them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as JSON")
    options = parser.parse_args()
    if unknown := [it for it in options.parts if it not in parts]:
        parser.error(f"unknown part {unknown[0]!r}; name one of: {', '.join(parts)}")
    prepare()
    name = Path(sys.argv[0]).stem
    with tempfile.TemporaryDirectory(prefix=f"edgeml-{name}-") as temporary:
        folder = Path(temporary)
        run = Run(
            folder=folder / "run",
            models=(options.models or folder / "models").resolve(),
            is_quick=options.quick,
            parts=tuple(options.parts or (options.quick and quick) or parts),
        )
        found = report.of([measured(name, parts, run)], is_quick=run.is_quick)
    if options.json:
        options.json.write_bytes(report.encode(found))
    print(report.markdown(found))
    sys.exit(report.failure(found))


def prepare() -> None:
    """Set the libraries' environment, and make the tests' shared modules importable."""
    os.environ |= ENVIRONMENT
    sys.path.insert(0, str(ROOT / "tests"))


def measured(name: str, parts: Parts, run: Run) -> ProgramReport:
    """Measure the parts of a program that a run names."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.models.mkdir(parents=True, exist_ok=True)
    begun_s, outcomes = time.monotonic(), []
    for part in run.parts:
        for module in parts[part]:
            part_s = time.monotonic()
            outcomes += _figures(module, run)
            print(f"{name}: {module} took {time.monotonic() - part_s:.0f} s", file=sys.stderr, flush=True)
    if run.is_quick:
        outcomes = without_aims(outcomes)
    return ProgramReport(name=name, seconds=round(time.monotonic() - begun_s, 1), outcomes=tuple(outcomes))


def _figures(module: str, run: Run) -> list[Outcome]:
    outcomes = list(importlib.import_module(module).figures(run))
    if not any(isinstance(it, Figure) for it in outcomes):
        raise RuntimeError(f"{module} returned no figure")
    return outcomes

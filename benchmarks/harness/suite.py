"""Run all benchmark programs, each in a process of its own, and gather their reports into one."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from harness import report
from harness.report import ProgramReport, Report

HERE: Final = Path(__file__).parents[1]
#: `export` comes first: it makes the encoder that `serving` serves.
PROGRAMS: Final = ("export", "delivery", "serving", "startup", "language", "fleet")
#: Programs that run at a time in a quick run, whose values count for nothing. A full run measures one after the other.
QUICK_JOBS: Final = 2
#: Reports that the tables in the documents are made from.
KEPT: Final = HERE / "reports"
#: Characters of a failed program's log in the report: a traceback fits.
LOG_CHARS: Final = 4000


def main() -> None:
    """Run the programs, print the report, and exit with its exit code."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"one of: {', '.join(PROGRAMS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="run each program for seconds, with small models")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="keep the models there, and reuse them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there as Markdown, too")
    parser.add_argument("--keep", action="store_true", help="add the report to those that the documents are made from")
    options = parser.parse_args()
    if unknown := [it for it in options.programs if it not in PROGRAMS]:
        parser.error(f"unknown program {unknown[0]!r}; name one of: {', '.join(PROGRAMS)}")
    if options.keep and options.quick:
        parser.error("--keep needs a full run: leave --quick out")
    for path in filter(None, (options.json, options.markdown)):
        path.parent.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
    with tempfile.TemporaryDirectory(prefix="edgeml-bench-") as temporary:
        folder = Path(temporary)
        models = (options.models or folder / "models").resolve()
        names = options.programs or PROGRAMS
        with ThreadPoolExecutor(QUICK_JOBS if options.quick else 1) as jobs:
            programs = list(jobs.map(lambda it: _run(it, folder, models, options.quick), names))
        found = report.of(programs, is_quick=options.quick)
    written = report.markdown(found)
    print(written)
    if options.json:
        options.json.write_bytes(report.encode(found))
    if options.markdown:
        options.markdown.write_text(f"{written}\n")
    code = report.failure(found)
    if options.keep and code == report.OK:
        _keep(found)
    sys.exit(code)


def _run(name: str, folder: Path, models: Path, is_quick: bool) -> ProgramReport:  # noqa: FBT001 - passed on
    """Run one program; a failure is part of the report, and the next program still runs."""
    found, log, begun_s = folder / f"{name}.json", folder / f"{name}.log", time.monotonic()
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(found), "--models", str(models)]
    print(f"{name} ...", file=sys.stderr, flush=True)
    with log.open("w") as out:
        ran = subprocess.run([*command, *["--quick"] * is_quick], stdout=out, stderr=out, check=False)
    seconds = round(time.monotonic() - begun_s, 1)
    print(f"{name}: exit {ran.returncode} after {seconds:.0f} s", file=sys.stderr, flush=True)
    if found.exists() and ran.returncode == report.OK:
        (program,) = report.read(found).programs
        return program
    return ProgramReport(name=name, seconds=seconds, error=log.read_text(errors="replace")[-LOG_CHARS:].strip())


def _keep(found: Report) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", found.machine.label.lower()).strip("-")
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{slug}-{found.date[:10]}.json"
    path.write_bytes(report.encode(found))
    print(f"kept as {path.relative_to(HERE.parent)}", file=sys.stderr)

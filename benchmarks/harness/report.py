"""The report of a run: what was measured, on which machine, with which versions, on which day. JSON and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from harness import host, rivals
from harness.figures import Aim, Figure, Outcome, number
from harness.host import Machine

GIB: Final = 1024**3
#: Exit codes: all figures are there; a program failed or returned none. A missed aim is no failure.
OK: Final = 0
FAILED: Final = 1


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcomes of one program, and its run time in seconds. `error` is the end of its log when it failed."""

    name: str
    seconds: float = 0
    outcomes: tuple[Outcome, ...] = ()
    error: str = ""

    @property
    def figures(self) -> list[Figure]:
        """The outcomes that were measured."""
        return [it for it in self.outcomes if isinstance(it, Figure)]


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All programs of one run. `date` is in UTC; `note` says how the figures came about where no program wrote them."""

    machine: Machine
    programs: tuple[ProgramReport, ...]
    date: str = ""
    versions: dict[str, str] = {}
    is_quick: bool = False
    note: str = ""


def of(programs: Sequence[ProgramReport], *, is_quick: bool) -> Report:
    """Make the report of programs that ran on this host, now."""
    return Report(
        machine=host.machine(),
        programs=tuple(programs),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions=host.versions() | rivals.versions(),
        is_quick=is_quick,
    )


def encode(report: Report) -> bytes:
    """Write a report as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def read(path: Path) -> Report:
    """Read a report's JSON file.

    Raises:
        msgspec.ValidationError: the file is no report.
    """
    return msgspec.json.decode(path.read_bytes(), type=Report)


def failure(report: Report) -> int:
    """Return the exit code: `FAILED` when a program failed, returned no figure, or one that is no number."""
    complete = all(it.figures and not it.error for it in report.programs)
    finite = all(math.isfinite(figure.value) for it in report.programs for figure in it.figures)
    return OK if report.programs and complete and finite else FAILED


def markdown(report: Report) -> str:
    """Write a report for people."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    machine = report.machine
    yield "# Benchmarks" + (" (quick: small models, brief runs; the values only show that it works)" * report.is_quick)
    yield ""
    yield f"- {report.date}" + (f"; {report.note}" if report.note else "")
    yield f"- {machine.cpu}: {machine.cores} cores, {machine.memory_bytes / GIB:.1f} GiB, {machine.system}"
    yield f"- CPU features: {', '.join(machine.features) or 'none known'}"
    yield f"- {', '.join(f'{name} {version}' for name, version in report.versions.items())}"
    for program in report.programs:
        yield from ("", f"## {program.name} ({program.seconds:.0f} s)", "")
        if program.figures:
            yield "| figure | value | aim | others kept busy | compared |"
            yield "|---|---|---|---|---|"
            yield from (_row(it) for it in program.figures)
        for it in program.outcomes:
            if not isinstance(it, Figure):
                yield f"\nNot measured: {it.name}: {it.reason}"
        if program.error:
            yield f"\nFAILED:\n\n```\n{program.error}\n```"


def _row(figure: Figure) -> str:
    sides = "; ".join(f"{name} {number(value)}" for name, value in figure.sides.items())
    compared = f"{sides} {figure.sides_unit}".strip() if sides else ""
    note = f" ({figure.note})" if figure.note else ""
    return f"| {figure.name} | {with_unit(figure)} | {_aim(figure)} | {figure.host} | {compared}{note} |"


def with_unit(figure: Figure) -> str:
    """Write a figure's value with its unit."""
    return f"{number(figure.value)} {figure.unit}".strip()


def bound(aim: Aim, unit: str) -> str:
    """Write an aim, such as `at least 6 x`."""
    return f"at {aim.kind} {number(aim.bound)} {unit}".strip()


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"{bound(figure.aim, figure.unit)}: {'met' if figure.aim.is_met(figure.value) else 'MISSED'}"

"""Write the tables of figures in README.md and in pages of docs from the reports in `benchmarks/reports`.

`python benchmarks/tables.py` writes them; `--check` only compares. A figure has a column for each kind of CPU, with the
range over its reports, and a column with the range over all machines. A page marks the place of a table with comments:

    <!-- figures: NAME -->           the figures of a program, the headlines, or the machines
    <!-- sides: FIGURE | FIGURE -->  the values of all that were compared, from the newest report that has the figures
    <!-- end of figures -->          ends both
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from harness import report
from harness.figures import Aim, Figure, number
from harness.report import Report

ROOT: Final = Path(__file__).parents[1]
REPORTS: Final = Path(__file__).with_name("reports")
PAGES: Final = ("README.md", "docs/benchmarks.md", "docs/scaling.md")
#: The figures of README.md: patterns of their names, in the order of its table.
HEADLINES: Final = (
    r"MiniLM int8: speed against .*",
    r"(BERT-large|ResNet-18) shape int8: speed against .*",
    r".* shape: decode after 16 tokens, edgeml int(4|8 in blocks) against llama\.cpp .*",
    r".* shape: prefill of 256 tokens, edgeml int[48] against llama\.cpp .*",
    r"DialoGPT-medium shape: decode after 16 tokens(, against (PyTorch|optimum) .*)?",
    r"echo: throughput.*",
    r"PSS without a model",
    r"update, one more epoch: .*",
    r"publications per chunk, 8 (light devices that start together|agents).*",
)
_TABLE: Final = re.compile(r"(<!-- (figures|sides): ([^>]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

#: A figure's name, unit and aim.
Row = tuple[str, str, Aim | None]


def main() -> None:
    """Write the tables, or exit with 1 when `--check` finds one that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    reports = [report.read(path) for path in sorted(REPORTS.glob("*.json"))]
    stale = [page for page in PAGES if _is_stale(ROOT / page, reports, writes=not options.check)]
    if options.check and stale:
        sys.exit(f"the figures of {', '.join(stale)} differ from the reports: run `python benchmarks/tables.py`")


def filled(text: str, reports: Sequence[Report]) -> str:
    """Fill the tables in a page's text."""

    def fill(found: re.Match[str]) -> str:
        lines = _table(found[3], reports) if found[2] == "figures" else _sides(found[3].split(" | "), reports)
        return "\n".join([found[1].rstrip(), *lines, found[4]])

    return _TABLE.sub(fill, text)


def _is_stale(page: Path, reports: Sequence[Report], *, writes: bool) -> bool:
    before = page.read_text()
    after = filled(before, reports)
    if writes and after != before:
        page.write_text(after)
    return after != before


def _table(name: str, reports: Sequence[Report]) -> Iterator[str]:
    """Yield the lines of a table: of a program, of the headlines, or of the machines."""
    if name == "machines":
        yield from _machines(reports)
        return
    rows = _rows(name, reports)
    if not rows:
        yield "No report has these figures yet."
        return
    machines = sorted({it.machine.label for it in reports})
    yield f"| figure | aim | {' | '.join(machines)} | range over machines |"
    yield "|---" * (len(machines) + 3) + "|"
    for row in rows:
        figure, unit, aim = row
        seen = {machine: _values(figure, machine, reports) for machine in machines}
        cells = [_cell(values, unit) for values in seen.values()]
        everywhere = [value for values in seen.values() for value in values]
        bound = report.bound(aim, unit) if aim else ""
        yield f"| {figure} | {bound} | {' | '.join(cells)} | {_range(everywhere, unit)} |"


def _sides(names: Sequence[str], reports: Sequence[Report]) -> Iterator[str]:
    """Yield a table of the sides of several figures, from the newest report that has the first of them."""
    having = [it for it in reports if any(figure.name == names[0] for figure in _figures([it]))]
    newest = max(having, key=lambda it: it.date)
    figures = {it.name: it for it in _figures([newest])}
    columns = [figures[it] for it in names if it in figures]
    first = columns[0]
    title = first.name.partition(":")[0]
    heads = [f"{it.name.partition(': ')[2]}{f', {it.sides_unit}' if it.sides_unit else ''}" for it in columns]
    yield f"| {title} | {' | '.join(heads)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for side in first.sides:
        cells = [number(it.sides[side]) if side in it.sides else "" for it in columns]
        yield f"| {side} | {' | '.join(cells)} |"
    yield ""
    yield f"{newest.machine.label}, {newest.date or 'an earlier run'}; others kept busy: {first.host}."


def _rows(name: str, reports: Sequence[Report]) -> list[Row]:
    """Return the rows of a table in the order in which programs return their figures."""
    if name == "headlines":
        found = _figures(reports)
        patterns = [re.compile(it) for it in HEADLINES]
        chosen = [it for pattern in patterns for it in found if pattern.fullmatch(it.name)]
    else:
        chosen = _figures(reports, name)
    rows: dict[str, Row] = {}
    for it in chosen:
        row = rows.get(it.name)
        rows[it.name] = (it.name, it.unit, it.aim or (row[2] if row else None))
    return list(rows.values())


def _figures(reports: Sequence[Report], program: str = "") -> list[Figure]:
    return [
        figure
        for one in sorted(reports, key=lambda it: sum(len(program.figures) for program in it.programs), reverse=True)
        for found in one.programs
        if program in {"", found.name}
        for figure in found.figures
    ]


def _values(name: str, machine: str, reports: Sequence[Report]) -> list[Figure]:
    return [it for it in _figures([one for one in reports if one.machine.label == machine]) if it.name == name]


def _cell(figures: Sequence[Figure], unit: str) -> str:
    """Write the range of the values by the host's load: quiet, then busy, then `*` where it was not recorded."""
    quiet = [it for it in figures if it.host.other_cores is not None and not it.host.is_busy]
    busy = [it for it in figures if it.host.is_busy]
    unknown = [it for it in figures if it.host.other_cores is None]
    groups = ((quiet, ""), (busy, " (busy)"), (unknown, " *"))
    return "; ".join(f"{_range(group, unit)}{mark}" for group, mark in groups if group)


def _range(figures: Sequence[Figure], unit: str) -> str:
    low, high = (number(pick(it.value for it in figures)) for pick in (min, max))
    return f"{low if low == high else f'{low} to {high}'} {unit}".strip()


def _machines(reports: Sequence[Report]) -> Iterator[str]:
    yield "| machine | CPU features | cores | date | report |"
    yield "|---|---|---|---|---|"
    for it in sorted(reports, key=lambda it: (it.machine.label, it.date)):
        machine = it.machine
        yield f"| {machine.cpu} | {', '.join(machine.features)} | {machine.cores or ''} | {it.date} | {it.note} |"


if __name__ == "__main__":
    main()

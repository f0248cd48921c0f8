"""The contents of the page: figures of a card and its measurements as tiles, plots and tables.

A part without measurements says so, or is left out. Nothing is computed here but fractions and order. The template
page.html places the parts and escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgeml.bundles import Bundle
from edgeml.report.plots import Bar, Kind, Pair, Plot, Point, bars, pairs, scatter
from edgeml_core.card import (
    Accuracy,
    CandidateTimes,
    Card,
    Latency,
    Measurements,
    TargetVerification,
    Tried,
)
from edgeml_core.manifest import TensorSpec

#: Classes in the plot; all of them are in the figures at the end.
CLASSES_SHOWN_MAX: Final = 20
NOT_MEASURED: Final = "not measured"
#: Bytes from which a size is given in MB; below it kB tell small models apart.
_MEGABYTES_FROM: Final = 100_000

#: A name and its value.
Row = tuple[str, str]
#: Times by format and recipe.
Times = Mapping[tuple[str, str], CandidateTimes]


@dataclass(frozen=True)
class Tile:
    """One figure that decides."""

    title: str
    figure: str
    note: str


@dataclass(frozen=True)
class Grid:
    """A table with a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A plot with a note below it, then pairs of name and value, then a table; each may be missing."""

    title: str
    plot: Plot | None = None
    note: str = ""
    pairs: Sequence[Row] = ()
    grid: Grid | None = None


def tiles(found: Bundle) -> list[Tile]:
    """List the four figures that decide."""
    card, measured = found.manifest.card, found.measurements
    speed = f"{measured.speedup:.2f} x fp32" if measured else NOT_MEASURED
    where = f"measured on {measured.cpu}, {measured.threads} thread(s)" if measured else "no measurements beside it"
    accuracy = card.accuracy
    return [
        Tile("Speed", speed, where),
        Tile("Size", card.size_summary, f"{_size(card.size_bytes)} of {_size(card.baseline_size_bytes)}"),
        Tile("Parity", f"{card.parity.cosine:.4f}", f"cosine to {card.parity.against}, {card.parity.rows} rows"),
        _accuracy(accuracy) if accuracy else _no_accuracy(card),
    ]


def candidates(found: Bundle) -> Section | None:
    """List every candidate of the gate, with a plot of those that were timed."""
    card, measured = found.manifest.card, found.measurements
    if not card.tried:
        return None
    times = {(it.format, it.recipe): it for it in measured.candidates} if measured else {}
    shipped = (found.manifest.file_format, card.recipe)
    head = ("#", "recipe", "ms", "drop", "cosine", "size", "memory", "outcome")
    rows = [_candidate_row(number, it, times, shipped) for number, it in enumerate(card.tried, 1)]
    plot = _candidate_plot(card, times)
    note = f"times measured on {measured.cpu}" if measured and times else "times: not measured"
    legend = "; fp is fp32, blue passed, red was left" if plot is not None else ""
    choice = [("choice of format", card.choice)] if card.choice else []
    return Section(title="Candidates", plot=plot, note=note + legend, pairs=choice, grid=Grid(head, rows))


def latency(measured: Measurements | None, recipe: str) -> Section:
    """Show the distribution of both models' times, under the name of the recipe that ships."""
    if measured is None:
        return Section(title="Latency", note=NOT_MEASURED)
    summary = f"p50, p90, p99 in ms; {measured.cpu}, {measured.threads} thread(s)"
    runs = f"{measured.int8.runs} runs each after {measured.int8.warmup} of warm-up, in turns, batch 1"
    rows = [
        ("load", f"{measured.load_ms:.1f} ms"),
        ("first inference", f"{measured.first_inference_ms:.2f} ms"),
        ("peak memory", _size(measured.peak_rss_bytes)),
        ("throughput", f"{measured.throughput_per_s:.1f} inferences/s, one after another"),
        *(
            [("writes", measured.writes_summary), ("reads prompts", measured.prefill.summary)]
            if measured.prefill
            else []
        ),
        ("energy", measured.energy.summary),
        ("host", "; ".join(measured.doubts) or "quiet"),
    ]
    plot = bars(
        [_latency_bar("fp32", measured.fp32, "fp32"), _latency_bar(recipe, measured.int8, "int8")],
        f"Latency: {summary}",
    )
    return Section(title="Latency", plot=plot, note=f"{summary}; {runs}", pairs=rows)


def sizes(card: Card) -> Section:
    """Compare the model's files with those of fp32."""
    rows = [
        Bar(label="fp32", summary=_size(card.baseline_size_bytes), marks=(card.baseline_size_bytes,), kind="fp32"),
        Bar(label=card.recipe, summary=_size(card.size_bytes), marks=(card.size_bytes,), kind="int8"),
    ]
    return Section(title="Size of the model", plot=bars(rows, "Size of the model's files, fp32 and shipped"))


def classes(accuracy: Accuracy | None) -> Section | None:
    """Show each class's accuracy before and after, the largest drop first."""
    if accuracy is None or not accuracy.classes:
        return None
    ordered = sorted(accuracy.classes, key=lambda it: it.int8 - it.fp32)
    rows = [
        Pair(label=it.label, summary=f"{it.fp32:.1%} → {it.int8:.1%}, {it.rows} rows", fp32=it.fp32, int8=it.int8)
        for it in ordered[:CLASSES_SHOWN_MAX]
    ]
    note = f"{len(rows)} of {len(ordered)} classes, the largest drop first; the hollow dot is fp32"
    return Section(title="By class", plot=pairs(rows, f"Accuracy by class: {note}"), note=note)


def verifications(known: Sequence[TargetVerification]) -> Section | None:
    """List the CPUs on which the bundle was verified, and how."""
    rows = [
        (
            it.cpu,
            it.how,
            _maybe(it.min_cosine, ".6f"),
            it.accuracy.summary if it.accuracy else "",
            it.note or "reproduced",
        )
        for it in known
    ]
    head = ("CPU", "how", "cosine", "accuracy", "outcome")
    return Section(title="Verification", grid=Grid(head, rows)) if rows else None


def manifest(found: Bundle) -> Section:
    """Show the part of the manifest that a device reads before it fetches the bundle."""
    it = found.manifest
    rows = [
        ("digest", found.manifest_sha256),
        ("bundle", _size(found.size_bytes)),
        ("task", it.task),
        ("runs on", " ".join((it.cpu.arch, *it.cpu.features))),
        ("runtime", f"{it.runtime.engine} ≥ {it.runtime.min_version}, {it.runtime.threads} thread(s)"),
        ("needs", f"{_size(it.needs.ram_bytes)} memory (estimated), {_size(it.needs.disk_bytes)} disk"),
        ("inputs", ", ".join(map(_tensor, it.inputs))),
        ("outputs", ", ".join(map(_tensor, it.outputs))),
        (
            "golden cases",
            f"{it.golden.cases}: cosine ≥ {it.golden.min_cosine}, no value off by more than {it.golden.max_abs}",
        ),
        ("calibration", _calibration(it.card)),
        *([("oracle", it.card.oracle.summary)] if it.card.oracle else []),
        *([("same text as fp32", it.card.greedy.summary)] if it.card.greedy else []),
        *([("kernels", it.card.kernels.summary)] if it.card.kernels else []),
        ("drift baseline", it.card.baseline_summary),
        ("source", it.provenance.source_sha256),
        ("made with", ", ".join(f"{name} {version}" for name, version in it.provenance.tools.items())),
    ]
    files = [(entry.path, _size(entry.size_bytes), entry.sha256[:16]) for entry in it.files]
    return Section(title="Manifest", pairs=rows, grid=Grid(("file", "size", "SHA-256"), files))


def figures(found: Bundle) -> list[Row]:
    """List every value of card and measurements as it is, by its path."""
    parts = {"card": found.manifest.card, "measured": found.measurements}
    return [row for name, part in parts.items() for row in _leaves(name, msgspec.to_builtins(part))]


def _candidate_plot(card: Card, times: Times) -> Plot | None:
    timed = [(str(number), it, times.get((it.format, it.recipe))) for number, it in enumerate(card.tried, 1)]
    by_drop = any(it.drop is not None for _, it, _ in timed)
    points = []
    for number, it, time in timed:
        value = it.drop if by_drop else it.cosine
        if time is not None and value is not None:
            kind: Kind = "int8" if it.passed else "failed"
            points.append(Point(number=number, x=time.int8_ms, y=-100 * value if by_drop else value, kind=kind))
    if not points:
        return None
    fp32_ms = max(time.fp32_ms for _, _, time in timed if time is not None)
    points.insert(0, Point(number="fp", x=fp32_ms, y=0.0 if by_drop else 1.0, kind="fp32"))
    measured = f"{card.accuracy.metric} against fp32, %" if card.accuracy else "accuracy against fp32, points"
    y_title = measured if by_drop else "cosine to the original"
    return scatter(points, "p50, ms", y_title, f"Candidates: latency against {y_title}")


def _candidate_row(number: int, it: Tried, times: Times, shipped: tuple[str, str]) -> list[str]:
    time = times.get((it.format, it.recipe))
    return [
        str(number),
        f"{it.format} {it.recipe}",
        f"{time.int8_ms:.2f}" if time else "",
        _maybe(it.drop, "+.2%"),
        _maybe(it.cosine, ".4f"),
        _size(it.size_bytes) if it.size_bytes else "",
        _size(it.ram_bytes) if it.ram_bytes else "",
        it.why or ("shipped" if (it.format, it.recipe) == shipped else "passed"),
    ]


def _latency_bar(label: str, of: Latency, kind: Kind) -> Bar:
    summary = f"{of.p50_ms:.2f} / {of.p90_ms:.2f} / {of.p99_ms:.2f}"
    return Bar(label=label, summary=summary, marks=(of.p50_ms, of.p90_ms, of.p99_ms), kind=kind)


def _accuracy(accuracy: Accuracy) -> Tile:
    change = "Drop" if accuracy.is_fraction else "Rise"
    return Tile(change, f"{accuracy.drop:+.2%}", f"{accuracy.metric} {accuracy.summary}")


def _no_accuracy(card: Card) -> Tile:
    return Tile("Drop", NOT_MEASURED, card.accuracy_note.removeprefix(f"{NOT_MEASURED}: "))


def _calibration(card: Card) -> str:
    return f"{card.calibration_rows} rows, SHA-256 {card.calibration_sha256[:16]}" if card.calibration_rows else "none"


def _leaves(path: str, value: Any) -> Iterator[Row]:  # noqa: ANN401 - any part of a struct
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            yield from _leaves(f"{path}.{number}", below)
    else:
        yield path, NOT_MEASURED if value is None else str(value)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}{list(spec.shape)}"


def _maybe(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= _MEGABYTES_FROM else f"{size_bytes / 1e3:.1f} kB"

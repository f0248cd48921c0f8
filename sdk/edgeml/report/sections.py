"""What stands on the page: the figures of a card and its measurements as tiles, plots and tables.

A part that nothing was measured for says so, or is left out; nothing is computed here but shares and order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from edgeml.bundles import Bundle
from edgeml.report.markup import Child, Element, el
from edgeml.report.plots import Bar, Kind, Pair, Point, bars, pairs, scatter
from edgeml_core.card import Accuracy, Card, Latency, Measurements, Proved, Timed, Tried
from edgeml_core.manifest import TensorSpec

#: Classes plotted; the whole list is in the figures below.
CLASSES_SHOWN_MAX: Final = 20
NOT_MEASURED: Final = "not measured"
_MEGABYTES_FROM: Final = 100_000


def tiles(found: Bundle) -> Element:
    """The four figures that decide."""
    card, measured = found.manifest.card, found.measurements
    share = card.size_bytes / card.baseline_size_bytes if card.baseline_size_bytes else 1.0
    speed = f"{measured.speedup:.2f} x fp32" if measured else NOT_MEASURED
    where = f"measured on {measured.cpu}, {measured.threads} thread(s)" if measured else "no measurements beside it"
    accuracy = card.accuracy
    return el(
        "div",
        _tile("Speed", speed, where),
        _tile("Size", f"{share:.2f} x fp32", f"{_size(card.size_bytes)} of {_size(card.baseline_size_bytes)}"),
        _tile("Parity", f"{card.parity.cosine:.4f}", f"cosine to {card.parity.against}, {card.parity.rows} rows"),
        _accuracy(accuracy) if accuracy else _no_accuracy(card),
        class_="tiles",
    )


def warnings(card: Card) -> Element | None:
    """What the card warns of."""
    return _section("Warnings", el("ul", *(el("li", summary) for summary in card.warnings))) if card.warnings else None


def candidates(found: Bundle) -> Element | None:
    """Every candidate of the gate: a plot of those that were timed, and a table with why each was left."""
    card, measured = found.manifest.card, found.measurements
    shipped = (found.manifest.file_format, card.recipe)
    if not card.tried:
        return None
    times = {(it.format, it.recipe): it for it in measured.candidates} if measured else {}
    head = ("#", "recipe", "ms", "drop", "cosine", "size", "memory", "outcome")
    rows = [_candidate_row(number, it, times, shipped) for number, it in enumerate(card.tried, 1)]
    plot = _candidate_plot(card, times)
    note = f"times measured on {measured.cpu}" if measured and times else "times: not measured"
    legend = "; fp is fp32, blue passed, red was left" if plot is not None else ""
    return _section("Candidates", plot, el("p", note + legend, class_="muted"), _grid(head, rows))


def latency(measured: Measurements | None) -> Element:
    """The distribution of both models' times."""
    if measured is None:
        return _section("Latency", el("p", NOT_MEASURED))
    rows = [_latency_bar("fp32", measured.fp32, "fp32"), _latency_bar("int8", measured.int8, "int8")]
    summary = f"p50, p90, p99 in ms; {measured.cpu}, {measured.threads} thread(s)"
    runs = f"{measured.int8.runs} runs each after {measured.int8.warmup} of warm-up, in turns, batch 1"
    more = [
        ("load", f"{measured.load_ms:.1f} ms"),
        ("first inference", f"{measured.first_inference_ms:.2f} ms"),
        ("peak memory", _size(measured.peak_rss_bytes)),
        ("throughput", f"{measured.throughput_per_s:.1f} inferences/s, one after another"),
        ("energy", measured.energy.summary),
        ("host", "; ".join(measured.doubts) or "quiet"),
    ]
    return _section(
        "Latency", bars(rows, f"Latency: {summary}"), el("p", f"{summary}; {runs}", class_="muted"), _pairs(more)
    )


def sizes(card: Card) -> Element:
    """The model's files against fp32's."""
    rows = [
        Bar(label="fp32", summary=_size(card.baseline_size_bytes), marks=(card.baseline_size_bytes,), kind="fp32"),
        Bar(label=card.recipe, summary=_size(card.size_bytes), marks=(card.size_bytes,), kind="int8"),
    ]
    return _section("Size of the model", bars(rows, "Size of the model's files, fp32 and shipped"))


def classes(accuracy: Accuracy | None) -> Element | None:
    """Each class's accuracy before and after, those that lost most first."""
    if accuracy is None or not accuracy.classes:
        return None
    ordered = sorted(accuracy.classes, key=lambda it: it.int8 - it.fp32)
    rows = [
        Pair(
            label=it.label,
            summary=f"{it.fp32:.1%} → {it.int8:.1%}, {it.rows} rows",
            fp32=it.fp32,
            int8=it.int8,
        )
        for it in ordered[:CLASSES_SHOWN_MAX]
    ]
    note = f"{len(rows)} of {len(ordered)} classes, the largest drop first; the hollow dot is fp32"
    return _section("By class", pairs(rows, f"Accuracy by class: {note}"), el("p", note, class_="muted"))


def proofs(known: Sequence[Proved]) -> Element | None:
    """On which CPUs it was run, and how."""
    rows: list[Sequence[str]] = [
        (
            it.cpu,
            it.how,
            _maybe(it.min_cosine, ".6f"),
            it.accuracy.summary if it.accuracy else "",
            it.note or "reproduced",
        )
        for it in known
    ]
    return _section("Proof", _grid(("CPU", "how", "cosine", "accuracy", "outcome"), rows)) if rows else None


def manifest(found: Bundle) -> Element:
    """What a device reads before it fetches the bundle."""
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
        ("drift baseline", it.card.baseline_said),
        ("source", it.provenance.source_sha256),
        ("made with", ", ".join(f"{name} {version}" for name, version in it.provenance.tools.items())),
    ]
    files = [(entry.path, _size(entry.size_bytes), entry.sha256[:16]) for entry in it.files]
    return _section("Manifest", _pairs(rows), _grid(("file", "size", "SHA-256"), files))


def figures(found: Bundle) -> Element:
    """Every figure and word of card and measurements as they are, for those who look for one."""
    parts = {"card": found.manifest.card, "measured": found.measurements}
    rows = [row for name, part in parts.items() for row in _leaves(name, msgspec.to_builtins(part))]
    return el("details", el("summary", "All figures"), _pairs(rows))


def _candidate_plot(card: Card, times: dict[tuple[str, str], Timed]) -> Element | None:
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
    whole = max(time.fp32_ms for _, _, time in timed if time is not None)
    points.insert(0, Point(number="fp", x=whole, y=0.0 if by_drop else 1.0, kind="fp32"))
    measured = f"{card.accuracy.metric} against fp32, %" if card.accuracy else "accuracy against fp32, points"
    y_title = measured if by_drop else "cosine to the original"
    return scatter(points, "p50, ms", y_title, f"Candidates: latency against {y_title}")


def _candidate_row(number: int, it: Tried, times: dict[tuple[str, str], Timed], shipped: tuple[str, str]) -> list[str]:
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


def _accuracy(accuracy: Accuracy) -> Element:
    change = "Drop" if accuracy.is_share else "Rise"
    return _tile(change, f"{accuracy.drop:+.2%}", f"{accuracy.metric} {accuracy.summary}")


def _no_accuracy(card: Card) -> Element:
    return _tile("Drop", NOT_MEASURED, card.accuracy_note.removeprefix(f"{NOT_MEASURED}: "))


def _calibration(card: Card) -> str:
    return f"{card.calibration_rows} rows, SHA-256 {card.calibration_sha256[:16]}" if card.calibration_rows else "none"


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - whatever a struct consists of
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            yield from _leaves(f"{path}.{number}", below)
    else:
        yield path, NOT_MEASURED if value is None else str(value)


def _section(title: str, *children: Child) -> Element:
    return el("section", el("h2", title), *children)


def _tile(title: str, figure: str, summary: str) -> Element:
    return el("div", el("h2", title), el("p", figure, class_="figure"), el("p", summary, class_="muted"), class_="tile")


def _pairs(rows: Iterable[tuple[str, str]]) -> Element:
    return el(
        "table", *(el("tr", el("th", name, scope="row"), el("td", summary)) for name, summary in rows), class_="pairs"
    )


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Element:
    """A table that becomes a list of its rows on a narrow screen: each cell knows its column's name."""
    columns = el("tr", *(el("th", name, scope="col") for name in head))
    body = [el("tr", *map(_cell, row, head)) for row in rows]
    return el("table", el("thead", columns), el("tbody", *body), class_="grid")


def _cell(summary: str, column: str) -> Element:
    return el("td", summary, data_column=column, **({} if summary else {"class_": "empty"}))


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}{list(spec.shape)}"


def _maybe(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= _MEGABYTES_FROM else f"{size_bytes / 1e3:.1f} kB"

"""`edgeml-agent top`: rates and quantiles of the models, between two snapshots of the agent's own metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from edgeml_agent.commands import scrape
from edgeml_agent.commands.scrape import Snapshot
from edgeml_agent.settings import ServeSettings

#: Seconds between two frames.
EVERY_S: Final = 1.0
#: Terminal codes: clear the screen, cursor to the upper left corner.
CLEAR: Final = "\x1b[H\x1b[2J"
_MIB: Final = 1024**2
_DURATIONS: Final = "edgeml_request_duration_seconds_bucket"
_HEADS: Final = ("MODEL", "VERSION", "TASK", "REQ/S", "FAIL/S", "TOK/S", "P50 MS", "P99 MS", "WAITING")


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """One model's load between two snapshots. Quantiles are None if no request came.

    `failed` are all requests without an answer, `tokens` those that a language model wrote.
    """

    name: str
    version: str
    task: str
    requests_per_s: float
    failed_per_s: float
    tokens_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    waiting: int


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """The device between two snapshots, `seconds` apart. Figures that the board doesn't report are None."""

    device: str
    version: str
    seconds: float
    resident_bytes: int
    cpu_celsius: float | None
    cpu_throttled: bool | None
    models: tuple[Activity, ...]


def frames(serve: ServeSettings) -> Iterator[Frame]:
    """Yield a frame every `EVERY_S`, without end.

    Raises:
        UsageError: `config-invalid`. TransportError: `agent-unreachable`.
    """
    before = scrape.take_snapshot(serve)
    while True:
        time.sleep(EVERY_S)
        after = scrape.take_snapshot(serve)
        yield between(before, after)
        before = after


def between(before: Snapshot, after: Snapshot) -> Frame:
    """Return the load between two snapshots."""
    agent = next((sample.labels for sample in after.of("edgeml_agent_info")), {})
    return Frame(
        device=agent.get("device", ""),
        version=agent.get("version", ""),
        seconds=round(after.at_s - before.at_s, 3),
        resident_bytes=int(after.total("process_resident_memory_bytes")),
        cpu_celsius=_single(after, "edgeml_cpu_temperature_celsius"),
        cpu_throttled=None if (value := _single(after, "edgeml_cpu_throttled")) is None else bool(value),
        models=tuple(_activity(model, before, after) for model in after.models),
    )


def lines(frame: Frame) -> list[str]:
    """Format a frame as a table."""
    rows = [_HEADS, *(_cells(model) for model in frame.models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head = [frame.device, f"edgeml-agent {frame.version}", f"{frame.resident_bytes / _MIB:.0f} MiB resident"]
    head += [] if frame.cpu_celsius is None else [f"CPU {frame.cpu_celsius:.0f} °C"]
    head += ["throttled"] if frame.cpu_throttled else []
    return ["  ".join(head), "", *("  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in rows)]


def _activity(model: scrape.Model, before: Snapshot, after: Snapshot) -> Activity:
    seconds = max(after.at_s - before.at_s, 1e-9)

    def per_s(name: str, **labels: str) -> float:
        new, old = (it.total(name, model=model.id, **labels) for it in (after, before))
        return max(0.0, new - old) / seconds  # fewer than before: the agent has restarted

    requested, answered = per_s("edgeml_requests_total"), per_s("edgeml_requests_total", code="ok")
    counts = _gained(model.id, before, after)
    return Activity(
        name=model.id,
        version=model.version,
        task=model.task,
        requests_per_s=round(requested, 2),
        failed_per_s=round(max(0.0, requested - answered), 2),
        tokens_per_s=round(per_s("edgeml_generated_tokens_total"), 2),
        p50_ms=_quantile_ms(0.5, counts),
        p99_ms=_quantile_ms(0.99, counts),
        waiting=int(after.total("edgeml_queue_depth", model=model.id)),
    )


def _single(snapshot: Snapshot, name: str) -> float | None:
    return next((sample.value for sample in snapshot.of(name)), None)


def _gained(model: str, before: Snapshot, after: Snapshot) -> list[tuple[float, float]]:
    """Return the cumulative histogram of the requests between: upper bounds in seconds, and counts up to them."""
    old = {sample.labels["le"]: sample.value for sample in before.of(_DURATIONS, model=model)}
    new = {sample.labels["le"]: sample.value for sample in after.of(_DURATIONS, model=model)}
    if any(new.get(bound, 0) < count for bound, count in old.items()):
        old = {}  # the agent has restarted
    return [(float(bound), count - old.get(bound, 0)) for bound, count in new.items()]


def _quantile_ms(fraction: float, counts: Sequence[tuple[float, float]]) -> float | None:
    """Interpolate as Prometheus' `histogram_quantile`: evenly within a bucket; above the last bound, that bound."""
    total = counts[-1][1] if counts else 0
    if total == 0:
        return None
    rank = fraction * total
    for (low_s, below), (high_s, up_to) in pairwise([(0.0, 0.0), *counts]):
        if up_to >= rank:
            if math.isinf(high_s):
                return round(low_s * 1000, 2)
            return round((low_s + (high_s - low_s) * (rank - below) / (up_to - below)) * 1000, 2)
    return None


def _cells(model: Activity) -> tuple[str, ...]:
    p50, p99 = ("-" if it is None else f"{it:.1f}" for it in (model.p50_ms, model.p99_ms))
    rates = (f"{it:.1f}" for it in (model.requests_per_s, model.failed_per_s, model.tokens_per_s))
    return (model.name, model.version, model.task, *rates, p50, p99, str(model.waiting))


def _aligned(cell: str, width: int, column: int) -> str:
    is_text = column < _HEADS.index("REQ/S")
    return cell.ljust(width) if is_text else cell.rjust(width)

"""`edgeml-agent top`: what the models do now, as rates and quantiles between two looks at the agent's own metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from edgeml_agent.commands import scrape
from edgeml_agent.commands.scrape import Look
from edgeml_agent.settings import ServeSettings

EVERY_S: Final = 1.0
#: Clears a terminal, the cursor at its upper left corner.
CLEAR: Final = "\x1b[H\x1b[2J"
_MIB: Final = 1024**2
_DURATIONS: Final = "edgeml_request_duration_seconds_bucket"
_HEADS: Final = ("MODEL", "VERSION", "TASK", "REQ/S", "FAIL/S", "TOK/S", "P50 MS", "P99 MS", "WAITING")


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What one model did meanwhile; no quantiles where nothing was asked.

    `failed` are all requests but those answered, `tokens` those that a language model wrote.
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
    """The device between two looks, `seconds` apart. Of the CPU it says what the board tells."""

    device: str
    version: str
    seconds: float
    resident_bytes: int
    cpu_celsius: float | None
    cpu_throttled: bool | None
    models: tuple[Activity, ...]


def frames(serve: ServeSettings) -> Iterator[Frame]:
    """One frame every `EVERY_S`, without end.

    Raises:
        UsageError: `config-invalid`. TransportError: `agent-unreachable`.
    """
    before = scrape.look(serve)
    while True:
        time.sleep(EVERY_S)
        after = scrape.look(serve)
        yield between(before, after)
        before = after


def between(before: Look, after: Look) -> Frame:
    """What happened from one look to the next."""
    agent = next((sample.labels for sample in after.of("edgeml_agent_info")), {})
    return Frame(
        device=agent.get("device", ""),
        version=agent.get("version", ""),
        seconds=round(after.at_s - before.at_s, 3),
        resident_bytes=int(after.total("process_resident_memory_bytes")),
        cpu_celsius=_single(after, "edgeml_cpu_temperature_celsius"),
        cpu_throttled=None if (told := _single(after, "edgeml_cpu_throttled")) is None else bool(told),
        models=tuple(_activity(model, before, after) for model in after.models),
    )


def lines(frame: Frame) -> list[str]:
    """The frame as a table."""
    rows = [_HEADS, *(_cells(model) for model in frame.models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    said = [frame.device, f"edgeml-agent {frame.version}", f"{frame.resident_bytes / _MIB:.0f} MiB resident"]
    said += [] if frame.cpu_celsius is None else [f"CPU {frame.cpu_celsius:.0f} °C"]
    said += ["throttled"] if frame.cpu_throttled else []
    return ["  ".join(said), "", *("  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in rows)]


def _activity(model: scrape.Model, before: Look, after: Look) -> Activity:
    seconds = max(after.at_s - before.at_s, 1e-9)

    def per_s(name: str, **labels: str) -> float:
        new, old = (look.total(name, model=model.id, **labels) for look in (after, before))
        return max(0.0, new - old) / seconds  # fewer than before: the agent started anew

    asked, answered = per_s("edgeml_requests_total"), per_s("edgeml_requests_total", code="ok")
    counts = _gained(model.id, before, after)
    return Activity(
        name=model.id,
        version=model.version,
        task=model.task,
        requests_per_s=round(asked, 2),
        failed_per_s=round(max(0.0, asked - answered), 2),
        tokens_per_s=round(per_s("edgeml_generated_tokens_total"), 2),
        p50_ms=_quantile_ms(0.5, counts),
        p99_ms=_quantile_ms(0.99, counts),
        waiting=int(after.total("edgeml_queue_depth", model=model.id)),
    )


def _single(look: Look, name: str) -> float | None:
    return next((sample.value for sample in look.of(name)), None)


def _gained(model: str, before: Look, after: Look) -> list[tuple[float, float]]:
    """The cumulative histogram of the requests between: upper bounds in seconds, and how many were below."""
    old = {sample.labels["le"]: sample.value for sample in before.of(_DURATIONS, model=model)}
    new = {sample.labels["le"]: sample.value for sample in after.of(_DURATIONS, model=model)}
    if any(new.get(bound, 0) < count for bound, count in old.items()):
        old = {}  # the agent started anew
    return [(float(bound), count - old.get(bound, 0)) for bound, count in new.items()]


def _quantile_ms(share: float, counts: Sequence[tuple[float, float]]) -> float | None:
    """As Prometheus' `histogram_quantile`: evenly spread within a bucket; above the last bound, that bound."""
    total = counts[-1][1] if counts else 0
    if total == 0:
        return None
    rank = share * total
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

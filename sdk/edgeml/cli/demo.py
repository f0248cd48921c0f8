"""`edgeml demo`: export, deliver and serve a real model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from edgeml.cli.output import Output, command, size, table

if TYPE_CHECKING:
    from edgeml.demo.scenario import Demonstrated
    from edgeml_core.messages import Report

_LABEL_MAX_CHARS = 50


@click.command()
@command(extra="demo", examples=("edgeml demo", "edgeml demo --json --quiet"))
def demo(out: Output) -> None:
    """Export a real model, deliver it over MQTT, ask the agent, and swap in a second version under traffic.

    It takes about a minute, uses free loopback ports, and removes every file at the end.
    """
    from edgeml.demo import scenario  # noqa: PLC0415 - kept out of --help

    found = scenario.run(lambda line: out.event("step", line, step=line))
    value = {
        "bundle": {
            "name": found.bundle.manifest.stem,
            "size_bytes": found.bundle.size_bytes,
            "card": msgspec.to_builtins(found.bundle.card),
            "measurements": msgspec.to_builtins(found.measurements),
        },
        "sentences": list(scenario.SENTENCES),
        "similarity": found.similarity,
        "delivery": [msgspec.to_builtins(report) for report in (found.first, found.second)],
        "swap": {"answers": dict(found.swap.versions), "failed": found.swap.failed},
        "seconds": found.seconds,
    }
    out.result(value, "\n\n".join((_similarity(scenario.SENTENCES, found.similarity), _card(found), _wire(found))))


def _similarity(sentences: Sequence[str], similarity: list[list[float]]) -> str:
    headers = ("embedded on the agent, by cosine", *map(str, range(1, len(sentences) + 1)))
    rows = [
        (f"{number}. {text[:_LABEL_MAX_CHARS]}", *(f"{cosine:.2f}" for cosine in row))
        for number, (text, row) in enumerate(zip(sentences, similarity, strict=True), 1)
    ]
    return table(headers, rows)


def _card(found: Demonstrated) -> str:
    card, measured = found.bundle.card, found.measurements
    rows = [
        ("size", f"{size(card.size_bytes)}, {card.size_summary}"),
        ("speed", f"{measured.speedup:.2f} x fp32 ({measured.int8.p50_ms:.1f} against {measured.fp32.p50_ms:.1f} ms)"),
        ("parity", f"cosine {card.parity.cosine:.4f} to {card.parity.against} over {card.parity.rows} rows"),
        ("measured on", f"{measured.cpu}, {measured.threads} thread(s)"),
    ]
    return table((found.bundle.manifest.stem, card.recipe), rows)


def _wire(found: Demonstrated) -> str:
    rows = [_delivery(report) for report in (found.first, found.second)]
    text = table(("over MQTT", "model", "on the wire"), rows)
    swap = found.swap
    answers = " and ".join(f"{count} from version {version}" for version, count in sorted(swap.versions.items()))
    return (
        f"{text}\n\nswap under traffic: {swap.answered} answers, {answers}; {swap.failed} failed\n{found.seconds:.0f} s"
    )


def _delivery(report: Report) -> tuple[str, str, str]:
    return (f"version {report.version}", size(report.total_bytes), size(report.wire_bytes))

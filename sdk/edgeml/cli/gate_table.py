"""The table of a failed gate: every candidate with what was found of it and why it was left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click
import msgspec

from edgeml.cli.output import Output, size, table
from edgeml_core.card import Timed, Tried
from edgeml_core.errors import GateFailed

_HEADERS = ("format", "recipe", "size", "RAM (estimated)", "cosine", "drop", "95 %", "speed here", "why it was left")


def tell(out: Output, error: GateFailed) -> None:
    """Show the candidates that an error brings: a JSON line under `--json`, otherwise a table on stderr."""
    from edgeml.check.attempt import NothingPassed  # noqa: PLC0415 - kept out of --help

    if not isinstance(error, NothingPassed):
        return
    if out.as_json:
        entries = [msgspec.to_builtins(tried) | _times(timed) for tried, timed in error.candidates]
        out.event("candidates", "", target=error.target, candidates=entries)
    else:  # not a note: --quiet must not hide why there is no bundle
        click.echo(f"candidates for {error.target}:\n{table(_HEADERS, _rows(error.candidates))}", err=True)


def _times(timed: Timed | None) -> dict[str, float | None]:
    return {"fp32_ms": timed.fp32_ms if timed else None, "int8_ms": timed.int8_ms if timed else None}


def _rows(pairs: Iterable[tuple[Tried, Timed | None]]) -> Iterator[tuple[str, ...]]:
    for it, timed in pairs:
        yield (
            it.format,
            it.recipe,
            size(it.size_bytes) if it.size_bytes else "",
            size(it.ram_bytes) if it.ram_bytes else "",
            f"{it.cosine:.4f}" if it.cosine is not None else "",
            f"{it.drop:+.2%}" if it.drop is not None else "",
            f"{it.ci95[0]:+.2%} to {it.ci95[1]:+.2%}" if it.ci95 else "",
            f"{timed.fp32_ms / timed.int8_ms:.2f} x fp32" if timed else "",
            it.why or "passed",
        )

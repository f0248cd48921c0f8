"""The table of a failed gate: every candidate with its figures and the reason why it was left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from edgeml.cli import card_tables
from edgeml.cli.output import Output
from edgeml_core.card import CandidateTimes
from edgeml_core.errors import GateFailed

if TYPE_CHECKING:
    from edgeml.pipeline.attempt import NothingPassed
    from edgeml.pipeline.request import Exported


def report(out: Output, error: GateFailed) -> tuple[Exported, ...]:
    """Print the candidates of an error: a JSON line under `--json`, otherwise a table on stderr.

    Returns:
        The bundles that passed nevertheless.
    """
    from edgeml.pipeline.attempt import NothingPassed, SomeFailed  # noqa: PLC0415 - kept out of --help

    if isinstance(error, SomeFailed):
        for each in error.failed:
            _report(out, each)
        return error.exported
    if isinstance(error, NothingPassed):
        _report(out, error)
    return ()


def _report(out: Output, error: NothingPassed) -> None:
    if out.as_json:
        entries = [msgspec.to_builtins(tried) | _times(timed) for tried, timed in error.candidates]
        out.event("candidates", "", target=error.target, candidates=entries)
    else:  # not a note: --quiet must not hide why there is no bundle
        click.echo(f"candidates for {error.target}:\n{card_tables.candidates(error.candidates)}", err=True)


def _times(timed: CandidateTimes | None) -> dict[str, object]:
    return {
        "fp32_ms": timed.fp32_ms if timed else None,
        "int8_ms": timed.int8_ms if timed else None,
        "prefill": msgspec.to_builtins(timed.prefill) if timed and timed.prefill else None,
    }

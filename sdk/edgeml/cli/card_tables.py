"""The tables of a card as text: the candidates, the results on each CPU, the loss of each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from edgeml.cli.output import size, table
from edgeml_core.card import CandidateTimes, ClassAccuracy, Tried

if TYPE_CHECKING:
    from edgeml.bundles import Bundle

#: Rows of the table of classes, those that lost most first; `--json` has all.
CLASSES_SHOWN_MAX: Final = 20
_TRIED: Final = ("format", "recipe", "size", "RAM (estimated)", "cosine", "drop", "95 %", "speed here", "outcome")
_VERIFICATIONS: Final = ("CPU", "how", "cosine", "accuracy there", "outcome")
_CLASSES: Final = ("class", "rows", "fp32", "shipped", "drop")


def tables(found: Bundle) -> Iterator[str]:
    """Format the tables of a bundle that have rows, each under its title."""
    card, measured = found.manifest.card, found.measurements
    if card.tried:
        times = {(it.format, it.recipe): it for it in measured.candidates} if measured else {}
        yield f"candidates:\n{candidates((it, times.get((it.format, it.recipe))) for it in card.tried)}"
    if found.verifications:
        rows = (
            (
                it.cpu,
                it.how,
                "" if it.min_cosine is None else f"{it.min_cosine:.6f}",
                it.accuracy.summary if it.accuracy else "not measured",
                it.note or "golden outputs reproduced",
            )
            for it in found.verifications
        )
        yield f"on each CPU:\n{table(_VERIFICATIONS, rows)}"
    if card.accuracy and card.accuracy.classes:
        yield f"by class:\n{_classes(card.accuracy.classes)}"


def candidates(pairs: Iterable[tuple[Tried, CandidateTimes | None]]) -> str:
    """Format the candidates of the gate, with the times of those that were timed."""
    return table(_TRIED, (_candidate(it, timed) for it, timed in pairs))


def _candidate(it: Tried, timed: CandidateTimes | None) -> tuple[str, ...]:
    return (
        it.format,
        it.recipe,
        size(it.size_bytes) if it.size_bytes else "",
        size(it.ram_bytes) if it.ram_bytes else "",
        f"{it.cosine:.4f}" if it.cosine is not None else "",
        f"{it.drop:+.2%}" if it.drop is not None else "",
        f"{it.ci95[0]:+.2%} to {it.ci95[1]:+.2%}" if it.ci95 else "",
        _speed(timed) if timed else "",
        it.why or "passed",
    )


def _speed(timed: CandidateTimes) -> str:
    found = f"{timed.fp32_ms / timed.int8_ms:.2f} x fp32"
    return f"{found}, prompts {timed.prefill.speedup:.2f} x" if timed.prefill else found


def _classes(classes: Iterable[ClassAccuracy]) -> str:
    """Format the classes in the order of the card: the class that lost most is first."""
    every = list(classes)
    rows = [
        (it.label, it.rows, f"{it.fp32:.2%}", f"{it.int8:.2%}", f"{it.fp32 - it.int8:+.2%}")
        for it in every[:CLASSES_SHOWN_MAX]
    ]
    left = len(every) - len(rows)
    return table(_CLASSES, rows) + (f"\nand {left} more that lost less" if left else "")

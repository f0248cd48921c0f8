"""Which file formats are built for a target, and which of them ships where more than one passed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeml import targets
from edgeml.check.gate import FASTER_MIN
from edgeml.pipeline.attempt import Attempt
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import RECIPES, Profile

#: What each format's converters are imported as.
_CONVERTERS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("optimum",),
    "tflite": ("litert_torch", "ai_edge_quantizer"),
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Every attempt of every format tried, the one that ships, and what the card says of the choice."""

    attempts: tuple[Attempt, ...]
    winner: Attempt | None
    notes: tuple[str, ...] = ()


def wanted(request: ExportRequest, profiles: Sequence[Profile]) -> Iterator[tuple[Profile, tuple[Format, ...]]]:
    """For each bundle the formats to choose from: one where it was asked for, else all of the target's."""
    for profile in profiles:
        if request.formats:
            for file_format in dict.fromkeys(request.formats):
                yield profile, (file_format,)
        else:
            yield profile, _automatic(request, profile)


def _automatic(request: ExportRequest, profile: Profile) -> tuple[Format, ...]:
    """The profile's formats in its order: those whose converter is installed and that know the recipe asked for."""
    formats = {engine: file_format for file_format, engine in ENGINES.items()}
    found = tuple(
        formats[engine]
        for engine in profile.engines
        if (request.recipe is None or request.recipe in RECIPES[engine])
        and all(importlib.util.find_spec(module) for module in _CONVERTERS[formats[engine]])
    )
    if not found:
        raise UsageError("usage", f"no format of {profile.name} can be made so", "name one with --format")
    return found


def choose(
    formats: Sequence[Format],
    profile: Profile,
    attempts: Callable[[Format], list[Attempt]],
    *,
    is_faster: Callable[[Attempt, Attempt], bool],
) -> Chosen:
    """Try the formats in order, and take one.

    On a machine of the target's kind all are tried, and one that is faster by far ships. Otherwise the first that
    passes does: elsewhere times say nothing of the target.

    Args:
        formats: in the profile's order.
        profile: the target.
        attempts: makes all of a format's.
        is_faster: whether the first is faster than the second by a margin that noise doesn't make.

    Raises:
        UsageError: of the first format, when none has a way for the model.
    """
    comparable = targets.suits_this_machine(profile)
    made: list[Attempt] = []
    unfit: list[tuple[Format, UsageError]] = []
    winners: list[Attempt] = []
    for file_format in formats:
        try:
            made += attempts(file_format)
        except UsageError as error:
            if error.code != "model-unsupported" or len(formats) == 1:
                raise
            unfit.append((file_format, error))
            continue
        if made[-1].error is None:
            winners.append(made[-1])
            if not comparable:
                break
    if not made:
        raise unfit[0][1]
    notes = [f"{file_format} was left: {error.message}" for file_format, error in unfit]
    winner = _fastest(winners, is_faster)
    if winner and len(formats) > 1:
        notes.insert(0, _reason(winner, winners, profile, comparable=comparable))
    return Chosen(attempts=tuple(made), winner=winner, notes=tuple(notes))


def _fastest(winners: Sequence[Attempt], is_faster: Callable[[Attempt, Attempt], bool]) -> Attempt | None:
    """The first, unless a later one is faster by far."""
    best = winners[0] if winners else None
    for other in winners[1:]:
        if best and is_faster(other, best):
            best = other
    return best


def _reason(winner: Attempt, winners: Sequence[Attempt], profile: Profile, *, comparable: bool) -> str:
    taken = winner.file_format
    if not comparable:
        return (
            f"{taken} is the first format in the profile that passed: this machine's CPU is not {profile.name}'s, "
            "so the formats were not timed against each other"
        )
    if len(winners) == 1:
        return f"{taken} is the only format that passed"
    others = ", ".join(it.file_format for it in winners if it is not winner)
    if winner is winners[0]:
        return f"{taken} comes first in the profile, and {others} is not {FASTER_MIN} times as fast on this CPU"
    return (
        f"{taken} was taken over {others}: more than {FASTER_MIN} times as fast, in turns on this CPU, which is the "
        "target's kind"
    )

"""Which file formats are built for a target, and which of them ships where more than one passed.

The rule, in this order (docs/decisions/0011-which-format-ships.md):

1. On a CPU of the target's kind every format is tried, and the cheapest candidate ships. Its cost is the expected time
   over the lengths of the operator's rows, raised for the accuracy that it loses. `comparison` has the figures.
2. For another CPU the times of this machine count for nothing. The format ships that the profile's evidence names for
   the family of recipes that passed.
3. Without evidence the first format in the profile ships that passed.

The card states in one sentence which of these decided.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgeml import targets
from edgeml.pipeline.attempt import Attempt, Passed
from edgeml.pipeline.comparison import TIME_PER_POINT, Comparison, Outcome
from edgeml.pipeline.request import ExportRequest
from edgeml.quantize import recipes
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import RECIPES, Profile

#: The modules that each format's converters are imported as.
_CONVERTERS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("optimum",),
    "tflite": ("litert_torch", "ai_edge_quantizer"),
}
#: Decimals of losses; more would differ between exports.
_DECIMALS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Every attempt of every format tried, and the candidate that ships.

    Args:
        reason: one sentence for the card; empty where only one format was requested.
        notes: formats that could not be built, and why.
        comparison: the times in turns, where they were taken.
    """

    attempts: tuple[Attempt, ...]
    winner: Passed | None
    reason: str = ""
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None


def list_formats(request: ExportRequest, profiles: Sequence[Profile]) -> Iterator[tuple[Profile, tuple[Format, ...]]]:
    """List for each bundle the formats to choose from: a requested one, else all of the target's."""
    for profile in profiles:
        if request.formats:
            for file_format in dict.fromkeys(request.formats):
                yield profile, (file_format,)
        else:
            yield profile, _automatic(request, profile)


def _automatic(request: ExportRequest, profile: Profile) -> tuple[Format, ...]:
    """The profile's formats whose converter is installed and that know the requested recipe, in its order."""
    formats = {engine: file_format for file_format, engine in ENGINES.items()}
    found = tuple(
        formats[engine]
        for engine in profile.engines
        if (request.recipe is None or request.recipe in RECIPES[engine])
        and all(importlib.util.find_spec(module) for module in _CONVERTERS[formats[engine]])
    )
    if not found:
        raise UsageError("usage", f"no format of {profile.name} can be built with this recipe", "name a --format")
    return found


def choose(
    formats: Sequence[Format],
    profile: Profile,
    try_candidates: Callable[[Format], list[Attempt]],
    *,
    compare: Callable[[Sequence[Passed]], Comparison],
) -> Chosen:
    """Try the formats, and choose one by the rule above.

    Args:
        formats: in any order.
        profile: the target.
        try_candidates: makes all attempts of a format.
        compare: takes turns between candidates on this machine.

    Raises:
        UsageError: of the first format, when the model can be converted to none.
    """
    is_comparable = targets.suits_this_machine(profile)
    engines = list(profile.engines)
    order = sorted(formats, key=lambda it: engines.index(ENGINES[it]) if ENGINES[it] in engines else len(engines))
    attempts: list[Attempt] = []
    unfit: list[tuple[Format, UsageError]] = []
    passed: list[Passed] = []
    for file_format in order:
        try:
            attempts += try_candidates(file_format)
        except UsageError as error:
            if error.code != "model-unsupported" or len(formats) == 1:
                raise
            unfit.append((file_format, error))
            continue
        if isinstance(last := attempts[-1], Passed):
            passed.append(last)
            if not is_comparable and _evidence(last, profile) in {None, last.file_format}:
                break
    if not attempts:
        raise unfit[0][1]
    notes = tuple(f"{file_format} was left: {error.message}" for file_format, error in unfit)
    chosen = Chosen(attempts=tuple(attempts), winner=passed[0] if passed else None, notes=notes)
    if not passed or len(formats) == 1:
        return chosen
    if is_comparable and len(passed) > 1:
        return _chosen_by_turns(chosen, passed, compare(passed))
    return _chosen_unmeasured(chosen, passed, profile, is_comparable=is_comparable)


def _evidence(passed: Passed, profile: Profile) -> Format | None:
    """The format that the profile's evidence names for the family of the recipe that passed."""
    found = profile.evidence.get(recipes.TABLE[passed.recipe].family)
    return found.format if found else None


def _chosen_by_turns(chosen: Chosen, passed: Sequence[Passed], found: Comparison) -> Chosen:
    winner = next(it for it in passed if it.file_format == found.winner)
    others = [it for it in passed if it is not winner]
    reason = "; ".join(_reason(winner, other, found) for other in others)
    return replace(chosen, winner=winner, reason=reason, comparison=found)


def _reason(winner: Passed, other: Passed, found: Comparison) -> str:
    """Explain in one sentence without figures, since the card must be the same after a second export."""
    ships = f"{winner.file_format} ships"
    is_closer = _distance(winner) < _distance(other)
    if found.outcome != "cost":
        rest = "it is closer to the original" if is_closer else "it comes first in the profile"
        return f"{ships}: {_ties(other.file_format)[found.outcome]}, and {rest}"
    if found.is_faster(other.file_format):
        return (
            f"{ships} although {other.file_format} takes less time over the expected lengths: {winner.file_format} is "
            f"closer to the original, and a point of accuracy is worth {TIME_PER_POINT} times the time"
        )
    if is_closer:
        return (
            f"{ships}: it is closer to the original than {other.file_format}, and takes no more time in turns with it"
        )
    if _distance(winner) > _distance(other):
        return (
            f"{ships} although {other.file_format} is closer to the original: it takes so much less time over the "
            f"expected lengths that the loss is worth it, at {TIME_PER_POINT} times the time for a point of accuracy"
        )
    return f"{ships}: it takes less time than {other.file_format} over the expected lengths, in turns on this CPU"


def _ties(other: Format) -> dict[Outcome, str]:
    return {
        "near": f"{other} costs as much over the expected lengths",
        "unclear": f"this host was too busy to tell its time from that of {other}",
        "trivial": "both formats take next to no time",
    }


def _distance(passed: Passed) -> tuple[float, float]:
    """The accuracy lost, then the distance from the original."""
    card = passed.findings.card
    drop = max(0.0, card.accuracy.drop) if card.accuracy else 0.0
    return round(drop, _DECIMALS), round(1 - card.parity.cosine, _DECIMALS)


def _chosen_unmeasured(chosen: Chosen, passed: Sequence[Passed], profile: Profile, *, is_comparable: bool) -> Chosen:
    """Choose by evidence, else by the profile's order."""
    by_evidence = next((it for it in passed if _evidence(it, profile) == it.file_format), None)
    winner = by_evidence or passed[0]
    ships = f"{winner.file_format} ships"
    family = recipes.TABLE[winner.recipe].family
    if is_comparable:
        reason = f"{ships}: it is the only format that passed"
    elif by_evidence:
        reason = f"{ships}, by evidence for {profile.cpu.core}: {profile.evidence[family].why}"
    else:
        reason = (
            f"{ships}: it comes first in the profile, and no published figure compares the formats with "
            f"{family} recipes on {profile.cpu.core}"
        )
    return replace(chosen, winner=winner, reason=reason)

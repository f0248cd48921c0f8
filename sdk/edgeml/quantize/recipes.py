"""Which recipes to try, in which order, and which are not tried and why. Data from the profile; no library, no work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeml.export.request import Quantize
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import EngineSetup, ModelKind, Profile, Recipe

FAMILIES: Final[tuple[Quantize, ...]] = ("dynamic", "static", "weight-only", "none")
UNCALIBRATED: Final = "static int8 was not tried: there is no calibration data, and none is made up"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Recipes in the order of trial, and what the card says of those left out."""

    recipes: tuple[Recipe, ...]
    notes: tuple[str, ...] = ()


def plan(profile: Profile, file_format: Format, kind: ModelKind, *, quantize: Quantize, calibrated: bool) -> Plan:
    """What to try for a kind of model on a target.

    Args:
        quantize: the family asked for; `auto` takes the profile's own order.
        calibrated: whether there is calibration data.

    Raises:
        UsageError: `usage`, when static int8 is asked for without calibration data, or the target lacks the engine or
            a recipe of that family.
    """
    setup = profile.engines.get(ENGINES[file_format])
    if setup is None:
        raise UsageError("usage", f"target {profile.name} has no engine for {file_format}", "leave out --format")
    if quantize == "static" and not calibrated:
        raise UsageError("usage", "static int8 needs calibration data", "add --calibrate FILE, or use --quantize auto")
    wanted = tuple(_asked(setup, kind, quantize))
    if not wanted:
        raise UsageError(
            "usage", f"target {profile.name} has no {quantize} recipe for {file_format}", "use --quantize auto"
        )
    tried = tuple(recipe for recipe in wanted if calibrated or family(recipe) != "static")
    return Plan(recipes=tried, notes=() if tried == wanted else (UNCALIBRATED,))


def family(recipe: Recipe) -> Quantize:
    """The family that a recipe belongs to."""
    return next(name for name in FAMILIES if recipe.startswith(name))


def _asked(setup: EngineSetup, kind: ModelKind, quantize: Quantize) -> Iterator[Recipe]:
    if quantize == "auto":
        yield from setup.recipes[kind]
    elif quantize == "none":
        yield "none"
    else:
        # Asked for by name, a family is tried as the target does it for any kind of model.
        every = dict.fromkeys(
            recipe for recipes in (setup.recipes[kind], *setup.recipes.values()) for recipe in recipes
        )
        yield from (recipe for recipe in every if family(recipe) == quantize)

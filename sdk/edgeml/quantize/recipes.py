"""Which recipes to try, in which order, and which are not tried and why. Data from the profile; no library, no work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeml.pipeline.request import Quantize
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import RECIPES, EngineSetup, ModelKind, Profile, Recipe

FAMILIES: Final[tuple[Quantize, ...]] = ("dynamic", "static", "weight-only", "none")
UNCALIBRATED: Final = "static int8 was not tried: there is no calibration data, and none is made up"


def plan(
    profile: Profile, file_format: Format, kind: ModelKind, *, quantize: Quantize, recipe: Recipe | None = None
) -> tuple[Recipe, ...]:
    """The recipes to try for a kind of model on a target, in order.

    Args:
        quantize: the family asked for; `auto` takes the profile's own order.
        recipe: the only one to try.

    Raises:
        UsageError: `usage`, when the target lacks the engine or a recipe of that family.
    """
    setup = profile.engines.get(ENGINES[file_format])
    if setup is None:
        raise UsageError("usage", f"target {profile.name} has no engine for {file_format}", "leave out --format")
    if recipe is not None and recipe not in RECIPES[ENGINES[file_format]]:
        known = ", ".join(sorted(RECIPES[ENGINES[file_format]]))
        raise UsageError("usage", f"{file_format} has no recipe {recipe!r}", f"its recipes are {known}")
    wanted = (recipe,) if recipe else tuple(_asked(setup, kind, quantize))
    if not wanted:
        raise UsageError(
            "usage", f"target {profile.name} has no {quantize} recipe for {file_format}", "use --quantize auto"
        )
    return wanted


def require_calibration(wanted: Quantize | Recipe | None) -> None:
    """Refuse a request for static int8 that brings no calibration data, before any work.

    Raises:
        UsageError: `usage`.
    """
    if wanted and wanted != "auto" and family(wanted) == "static":
        raise UsageError("usage", "static int8 needs calibration data", "add --calibrate FILE, or use --quantize auto")


def family(recipe: Quantize | Recipe) -> Quantize:
    """The family that a recipe belongs to."""
    return next(name for name in FAMILIES if recipe.startswith(name))


def is_mixed(recipe: str) -> bool:
    """Whether the most sensitive nodes stay in fp32."""
    return recipe.endswith("-mixed")


def _asked(setup: EngineSetup, kind: ModelKind, quantize: Quantize) -> Iterator[Recipe]:
    if quantize == "none" or kind == "estimator":
        yield "none"
    elif quantize == "auto":
        yield from setup.recipes[kind]
    else:
        # Asked for by name, a family is tried as the target does it for any kind of model.
        every = dict.fromkeys(
            recipe for recipes in (setup.recipes[kind], *setup.recipes.values()) for recipe in recipes
        )
        yield from (recipe for recipe in every if family(recipe) == quantize)

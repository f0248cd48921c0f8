"""The recipes as a table, and the order in which a target's recipes are tried. Data only: imports no quantizer.

A recipe has the same name in target profiles, on cards and on the command line. Nothing else takes a name apart: code
that must know a property of a recipe reads it from the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import RECIPES, EngineSetup, ModelKind, Profile, RecipeName

Family = Literal["dynamic", "static", "weight-only", "none"]
#: A family to try, or the profile's own order.
Quantize = Literal["auto", "dynamic", "static", "weight-only", "none"]
#: The work that a language model must be fast at: to write tokens (decode), or to read prompts (prefill).
Prefer = Literal["decode", "prefill"]
#: How the range of an activation follows from its calibration values.
CalibrationMethod = Literal["minmax", "entropy", "percentile"]
UNCALIBRATED: Final = "static int8 was not tried: there is no calibration data, and none is made up"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to quantize a model.

    Attributes:
        family: `dynamic` scales activations at run time, `static` by calibration data; `weight-only` stores weights
            in fewer bits and computes in float.
        bits: of a stored weight; 16 and 32 are floats.
        signed: whether int8 weights are signed.
        reduced: whether weights use 7 bits of their range. A CPU without VNNI saturates otherwise.
        method: how `static` finds the ranges of activations.
        mixed: whether the nodes that suffer most from int8 stay in float.
        blocks: whether a scale belongs to a block of weights and products are computed in int8 (MatMulNBits).
    """

    family: Family
    bits: Literal[4, 8, 16, 32] = 8
    signed: bool = True
    reduced: bool = False
    method: CalibrationMethod = "minmax"
    mixed: bool = False
    blocks: bool = False

    @property
    def needs_calibration(self) -> bool:
        """Whether the recipe can't be made without calibration data."""
        return self.family == "static"

    @property
    def graph(self) -> Recipe:
        """The recipe with the same operators; another method gives activations other ranges, and the same time."""
        return replace(self, method="minmax")

    @property
    def runs_as_float(self) -> bool:
        """Whether the runtime holds the weights in float when the model is loaded."""
        return self.family == "none" or (self.family == "weight-only" and not self.blocks)


#: Every recipe by its name.
TABLE: Final[Mapping[RecipeName, Recipe]] = MappingProxyType(
    {
        "dynamic-s8": Recipe(family="dynamic"),
        "dynamic-s8-reduced": Recipe(family="dynamic", reduced=True),
        "dynamic-u8": Recipe(family="dynamic", signed=False),
        "dynamic-s8-mixed": Recipe(family="dynamic", mixed=True),
        "dynamic-s8-reduced-mixed": Recipe(family="dynamic", reduced=True, mixed=True),
        "static-s8": Recipe(family="static"),
        "static-s8-reduced": Recipe(family="static", reduced=True),
        "static-s8-entropy": Recipe(family="static", method="entropy"),
        "static-s8-reduced-entropy": Recipe(family="static", reduced=True, method="entropy"),
        "static-s8-percentile": Recipe(family="static", method="percentile"),
        "static-s8-reduced-percentile": Recipe(family="static", reduced=True, method="percentile"),
        "static-s8-mixed": Recipe(family="static", mixed=True),
        "static-s8-reduced-mixed": Recipe(family="static", reduced=True, mixed=True),
        "weight-only": Recipe(family="weight-only"),
        "weight-only-8bit": Recipe(family="weight-only", blocks=True),
        "weight-only-4bit": Recipe(family="weight-only", bits=4, blocks=True),
        "weight-only-fp16": Recipe(family="weight-only", bits=16),
        "dynamic": Recipe(family="dynamic"),
        "static": Recipe(family="static"),
        "none": Recipe(family="none", bits=32),
    }
)


def plan(
    profile: Profile,
    file_format: Format,
    kind: ModelKind,
    *,
    quantize: Quantize,
    only: RecipeName | None = None,
    prefer: Prefer | None = None,
) -> tuple[RecipeName, ...]:
    """List the recipes to try for a kind of model on a target, in order.

    Args:
        quantize: the family requested; `auto` takes the profile's own order.
        only: the one recipe to try instead, which the profile needn't name.
        prefer: of a language model: `prefill` tries dynamic int8 before all others. It reads a prompt 2 to 3 times as
            fast as blocks of 4 bits on x86. None and `decode` keep the profile's order.

    Raises:
        UsageError: `usage`, when the target lacks the engine or a recipe of that family, or `prefer` is given for
            another kind of model.
    """
    if prefer is not None and kind != "decoder":
        raise UsageError("usage", f"--prefer {prefer} is for language models; this model is none", "leave it out")
    setup = profile.engines.get(ENGINES[file_format])
    if setup is None:
        raise UsageError("usage", f"target {profile.name} has no engine for {file_format}", "leave out --format")
    if only is not None:
        if only not in RECIPES[ENGINES[file_format]]:
            known = ", ".join(sorted(RECIPES[ENGINES[file_format]]))
            raise UsageError("usage", f"{file_format} has no recipe {only!r}", f"name one of {known}")
        return (only,)
    planned = list(_requested(setup, kind, quantize))
    if prefer == "prefill":
        planned.sort(key=lambda name: TABLE[name].family != "dynamic")
    if not planned:
        message = f"target {profile.name} has no {quantize} recipe for {file_format}"
        raise UsageError("usage", message, "use --quantize auto")
    return tuple(planned)


def check_calibration(requested: Quantize | RecipeName) -> None:
    """Refuse a request for static int8 without calibration data, before any work.

    Args:
        requested: a family or a recipe, for which no calibration data is given.

    Raises:
        UsageError: `usage`.
    """
    if requested != "auto" and TABLE[requested].needs_calibration:
        raise UsageError("usage", "static int8 needs calibration data", "add --calibrate FILE, or use --quantize auto")


def _requested(setup: EngineSetup, kind: ModelKind, quantize: Quantize) -> Iterator[RecipeName]:
    if quantize == "none" or kind == "estimator":
        yield "none"
    elif quantize == "auto":
        yield from _of_kind(setup, kind)
    else:
        # A family requested by name is tried with the target's recipes for any kind of model.
        every = dict.fromkeys(name for names in (_of_kind(setup, kind), *setup.recipes.values()) for name in names)
        yield from (name for name in every if TABLE[name].family == quantize)


def _of_kind(setup: EngineSetup, kind: ModelKind) -> tuple[RecipeName, ...]:
    """List the recipes of a kind; a target that names none for decoders has those of encoders."""
    return setup.recipes.get(kind) or setup.recipes["encoder"]

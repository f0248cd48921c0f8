"""Target profiles: a board as data. `parse` reads one TOML file and reports all its problems at once.

Every number must have a source, named in the file's `[sources]` table by the number's dotted path or by a table above
it. `edgeml.targets` finds the files; nothing here touches a disk.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Final, Literal, get_args

import msgspec

from edgeml_core import decoding, names
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ENGINES, Engine, Format

#: `estimator` is a scikit-learn model: no quantizer knows its operators, and it is small.
ModelKind = Literal["encoder", "decoder", "cnn", "estimator"]
RecipeName = Literal[
    "dynamic-s8",
    "dynamic-s8-reduced",
    "dynamic-u8",
    "dynamic-s8-mixed",
    "dynamic-s8-reduced-mixed",
    "static-s8",
    "static-s8-reduced",
    "static-s8-entropy",
    "static-s8-reduced-entropy",
    "static-s8-percentile",
    "static-s8-reduced-percentile",
    "static-s8-mixed",
    "static-s8-reduced-mixed",
    "weight-only",
    "weight-only-8bit",
    "weight-only-4bit",
    "weight-only-fp16",
    "dynamic",
    "static",
    "none",
]

#: `static` needs calibration data; `weight-only` and `none` compute in float.
RecipeFamily = Literal["dynamic", "static", "weight-only", "none"]

#: The recipes that each engine's quantizer knows (see docs/targets.md).
RECIPES: Final[dict[Engine, frozenset[RecipeName]]] = {
    "onnxruntime": frozenset(get_args(RecipeName)) - {"dynamic", "static"},
    "litert": frozenset({"dynamic", "static", "weight-only", "weight-only-fp16", "none"}),
}
#: Threads of an engine; no board has more cores.
THREADS_MAX: Final = 256


class Cpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processor. `features` as Linux names them in /proc/cpuinfo; `needs` are those that bundles rely on."""

    arch: Literal["aarch64", "x86_64"]
    core: str
    cores: int
    features: tuple[str, ...]
    needs: tuple[str, ...]
    emulator: str


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """RAM in bytes, and the fraction of it that one model may take.

    `decode_bytes_per_s` is the rate at which published runs of language models read their weights there while they
    write: a token reads all of them once.
    """

    ram_bytes: int
    model_share: float
    decode_bytes_per_s: int | None = None

    @property
    def model_bytes(self) -> int:
        """Bytes that one model may take."""
        return int(self.ram_bytes * self.model_share)


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The kind of storage, and its size where the board fixes it."""

    kind: str
    size_bytes: int | None = None


class Power(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole board's power in watts, where published."""

    idle_w: float | None = None
    load_w: float | None = None


class GoldenBounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds for golden outputs on the board; `max_relative` is a fraction of the largest golden value."""

    min_cosine: float
    max_relative: float


class EngineSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runtime on this board: versions, settings and the recipes to try, in order, for each kind of model."""

    min_version: str
    bad_versions: dict[str, str] = {}
    threads: int
    options: dict[str, str] = {}
    golden: GoldenBounds
    recipes: dict[ModelKind, tuple[RecipeName, ...]]


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The format that published or measured figures favour on this CPU. `why` is one clause for the card."""

    format: Format
    why: str


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board. The first of `engines` is the default; `evidence` names a better one for a family of recipes.

    Evidence counts only where the exporting machine can't measure, since its CPU is of another kind.
    """

    name: str
    title: str
    cpu: Cpu
    memory: Memory
    storage: Storage
    power: Power = Power()
    engines: dict[Engine, EngineSetup]
    evidence: dict[RecipeFamily, Evidence] = {}
    sources: dict[str, str]


def parse(data: bytes) -> Profile:
    """Parse a TOML file's bytes.

    Raises:
        UsageError: `target-invalid`, with every problem found.
    """
    try:
        raw = tomllib.loads(data.decode())
        profile = decoding.convert(raw, Profile)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise _invalid([str(error)]) from error
    if problems := [*_problems(profile), *_source_problems(raw)]:
        raise _invalid(problems)
    return profile


def _invalid(problems: list[str]) -> UsageError:
    message = f"the target profile has {len(problems)} problem(s): {'; '.join(problems)}"
    return UsageError("target-invalid", message, "fix them all, then run `edgeml target check FILE`")


def _problems(profile: Profile) -> Iterator[str]:
    if not names.is_name(profile.name):
        yield f"name {profile.name!r} is not a valid name"
    if profile.cpu.cores < 1:
        yield f"cpu.cores is {profile.cpu.cores}"
    if missing := set(profile.cpu.needs) - set(profile.cpu.features):
        yield f"cpu.needs names {', '.join(sorted(missing))}, which cpu.features doesn't have"
    yield from _memory_problems(profile.memory)
    if not profile.engines:
        yield "engines is empty"
    for family, evidence in profile.evidence.items():
        if ENGINES[evidence.format] not in profile.engines:
            yield f"evidence.{family}.format is {evidence.format}, whose engine the profile doesn't have"
    for engine, setup in profile.engines.items():
        yield from _engine_problems(engine, setup)


def _memory_problems(memory: Memory) -> Iterator[str]:
    if memory.ram_bytes < 1:
        yield f"memory.ram_bytes is {memory.ram_bytes}"
    if (rate := memory.decode_bytes_per_s) is not None and rate < 1:
        yield f"memory.decode_bytes_per_s is {rate}"
    if not 0 < memory.model_share <= 1:
        yield f"memory.model_share is {memory.model_share}, not above 0 and at most 1"


def _engine_problems(engine: Engine, setup: EngineSetup) -> Iterator[str]:
    if not 1 <= setup.threads <= THREADS_MAX:
        yield f"engines.{engine}.threads is {setup.threads}, not within 1 and {THREADS_MAX}"
    if not 0 <= setup.golden.min_cosine <= 1:
        yield f"engines.{engine}.golden.min_cosine is {setup.golden.min_cosine}, not within 0 and 1"
    if setup.golden.max_relative < 0:
        yield f"engines.{engine}.golden.max_relative is negative"
    for kind, recipes in setup.recipes.items():
        if not recipes:
            yield f"engines.{engine}.recipes.{kind} is empty"
        if unknown := [recipe for recipe in recipes if recipe not in RECIPES[engine]]:
            yield f"engines.{engine}.recipes.{kind} names {', '.join(unknown)}, which {engine} doesn't have"
    if missing := {"encoder", "cnn"} - setup.recipes.keys():
        yield f"engines.{engine}.recipes lacks {', '.join(sorted(missing))}"


def _source_problems(raw: Mapping[str, object]) -> Iterator[str]:
    sources = raw["sources"]
    paths = {path for path, value in _leaves({key: raw[key] for key in raw.keys() - {"sources"}})}
    numbers = sorted(path for path, value in _leaves(raw) if isinstance(value, int | float))
    if not isinstance(sources, dict):
        return
    claims = [path for path in sorted(paths) if path.startswith("evidence.")]
    for path in (*numbers, *claims):
        if not any(_covers(source, path) for source in sources):
            yield f"{path} has no source"
    for source, text in sources.items():
        if not any(_covers(source, path) for path in paths):
            yield f"sources names {source!r}, which the profile doesn't have"
        if not str(text).strip():
            yield f"the source of {source!r} is empty"


def _covers(source: str, path: str) -> bool:
    return path == source or path.startswith(f"{source}.")


def _leaves(table: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value

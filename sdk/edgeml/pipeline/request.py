"""What is asked of an export, who is told how it goes, and what comes back. Values only: no libraries, no work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args, runtime_checkable

from edgeml_core import names
from edgeml_core.card import Measurements
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format, Manifest, Task
from edgeml_core.profile import Recipe

Quantize = Literal["auto", "dynamic", "static", "weight-only", "none"]

#: Fractions of 1: int8 may lose this much of the task metric against fp32.
MAX_DROP_DEFAULT: Final = 0.01
VERSION_DEFAULT: Final = "1"


@dataclass(frozen=True, kw_only=True)
class ModelInMemory:
    """A model object instead of a file.

    Args:
        name: fit to name a release.
        model: a `torch.nn.Module` or a fitted scikit-learn estimator.
        example: inputs of batch 1, as a function in `file.py:function` returns them.
    """

    name: str
    model: Any
    example: Any


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One run of `edgeml export`: every target gets one bundle in every format.

    Args:
        model: a Hugging Face directory, `file.onnx` or `path/file.py:function`.
        targets: names of target profiles, or paths of profile files.
        formats: the file formats; empty ships for each target the one that wins its gate.
        task: what the model does; None detects it.
        quantize: which kind of recipes to try; `auto` tries the profile's, in its order.
        recipe: the only recipe to try.
        calibrate: JSON lines to calibrate static quantization on.
        evaluate: JSON lines with labels to measure accuracy on; for a language model whole texts, for its perplexity.
        max_drop: the loss of the task metric that is accepted, as a fraction of 1; for perplexity, of its fp32 value.
        max_latency_ms: the median latency that is accepted, as measured on this machine.
        max_size_bytes: the size of the model's files that is accepted.
        max_ram_bytes: the memory that is accepted, as estimated; the target's own bound holds too.
        name: the model's name; None takes it from `model`.
        version: the release's version.
        output: the folder that the bundles are written to.
        in_memory: the model itself; `model` is only its name in messages then.

    Raises:
        UsageError: `usage`, for a bad name, version or bound, or no target.
    """

    model: str
    targets: Sequence[str]
    output: Path
    formats: Sequence[Format] = ()
    task: Task | None = None
    quantize: Quantize = "auto"
    recipe: Recipe | None = None
    calibrate: Path | None = None
    evaluate: Path | None = None
    max_drop: float = MAX_DROP_DEFAULT
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    max_ram_bytes: int | None = None
    name: str | None = None
    version: str = VERSION_DEFAULT
    in_memory: ModelInMemory | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise UsageError("usage", "no target is named", "add --target NAME; `edgeml target list` shows them")
        if not 0 <= self.max_drop <= 1:
            raise UsageError("usage", f"max-drop {self.max_drop} is not within 0 and 1", "for example --max-drop 1%")
        for budget in ("max_latency_ms", "max_size_bytes", "max_ram_bytes"):
            if (value := getattr(self, budget)) is not None and not value > 0:
                raise UsageError("usage", f"{budget} {value} is not above 0", "for example --max-ram 30MB")
        self._require_recipe()
        if self.name is not None:
            names.require_name(self.name, "model name")
        names.require_version(self.version)

    def _require_recipe(self) -> None:
        if self.recipe is None:
            return
        if self.recipe not in get_args(Recipe):
            known = ", ".join(get_args(Recipe))
            raise UsageError("usage", f"there is no recipe {self.recipe!r}", f"the recipes are {known}")
        if self.quantize != "auto":
            raise UsageError("usage", "--recipe and --quantize exclude each other", "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One bundle written: where it lies, what it says of itself, what this machine measured of it."""

    path: Path
    manifest: Manifest
    measurements: Measurements


@runtime_checkable
class Progress(Protocol):
    """Who is told how an export goes."""

    def stage(self, name: str) -> None:
        """A named step begins, such as `quantize rpi4 onnx: dynamic-int8`; it ends when the next begins."""

    def done(self, exported: Exported) -> None:
        """A bundle was written."""


class NullProgress:
    """A progress that nobody looks at."""

    def stage(self, name: str) -> None:
        """Ignore the step."""

    def done(self, exported: Exported) -> None:
        """Ignore the bundle."""

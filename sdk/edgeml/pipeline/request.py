"""The request of an export, its progress and its result. Values only: no libraries, no work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, get_args, runtime_checkable

from edgeml.quantize.recipes import Prefer, Quantize
from edgeml_core import names
from edgeml_core.card import Measurements
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format, Manifest, Task
from edgeml_core.profile import RecipeName

#: Fractions of 1: int8 may lose this much of the task metric against fp32.
MAX_DROP_DEFAULT: Final = 0.01
#: Rows. Where int8 and fp32 disagree on 1 % of them, the 95 % interval of the drop reaches 0.2 points to each side.
EVALUATE_ROWS_DEFAULT: Final = 10_000
VERSION_DEFAULT: Final = "1"
#: By field: the option that sets it.
_LIMITS: Final = {
    "evaluate_rows": "--evaluate-rows",
    "max_latency_ms": "--max-latency",
    "max_size_bytes": "--max-size",
    "max_ram_bytes": "--max-ram",
}


@dataclass(frozen=True, kw_only=True)
class MeasuringBudget:
    """Seconds that timing takes for each candidate, at most; the fewest runs are made in any case.

    Args:
        paired_s: the candidate and its fp32 model, in turns.
        alone_s: the bundle that ships, alone; throughput and energy settle within a second.
        turns_s: candidates of several formats against each other. Beyond it an export would take longer for the choice
            than for the conversion of a small model.
    """

    paired_s: float = 1.5
    alone_s: float = 1.0
    turns_s: float = 40.0


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
        formats: the file formats; with none the best format ships for each target (`format_choice`).
        task: the model's task; None detects it.
        quantize: the family of recipes to try; `auto` tries the profile's, in its order.
        recipe: the only recipe to try.
        prefer: the work that a language model must be fast at; None is `decode`.
        calibrate: JSON lines to calibrate static quantization on.
        evaluate: JSON lines with labels to measure accuracy on; whole texts for a language model's perplexity.
        evaluate_rows: the rows of `evaluate` that are answered; of more, this many are drawn at random.
        max_drop: the loss of the task metric that is accepted, as a fraction of 1; for perplexity, of its fp32 value.
        max_latency_ms: the median latency that is accepted, as measured on this machine.
        max_size_bytes: the size of the model's files that is accepted.
        max_ram_bytes: the memory that is accepted, as estimated; the target's own bound holds too.
        name: the model's name; None takes it from `model`.
        version: the release's version.
        output: the folder that the bundles are written to.
        overwrite: whether other bundles of the same name and version there are replaced.
        budget: the seconds that timing takes.
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
    recipe: RecipeName | None = None
    prefer: Prefer | None = None
    calibrate: Path | None = None
    evaluate: Path | None = None
    evaluate_rows: int = EVALUATE_ROWS_DEFAULT
    max_drop: float = MAX_DROP_DEFAULT
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    max_ram_bytes: int | None = None
    name: str | None = None
    version: str = VERSION_DEFAULT
    overwrite: bool = False
    budget: MeasuringBudget = MeasuringBudget()
    in_memory: ModelInMemory | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise UsageError("usage", "no target is named", "add --target NAME; list them with `edgeml target list`")
        if not 0 <= self.max_drop <= 1:
            raise UsageError(
                "usage",
                f"max-drop {self.max_drop} is not within 0 and 1",
                "give a fraction or percentage, such as --max-drop 1%",
            )
        for field, option in _LIMITS.items():
            if (value := getattr(self, field)) is not None and not value > 0:
                raise UsageError("usage", f"{option} {value} is not above 0", f"give {option} a number above 0")
        self._check_recipe()
        if self.name is not None:
            names.require_name(self.name, "model name")
        names.require_version(self.version)

    def _check_recipe(self) -> None:
        if self.recipe is None:
            return
        if self.recipe not in get_args(RecipeName):
            known = ", ".join(get_args(RecipeName))
            raise UsageError("usage", f"there is no recipe {self.recipe!r}", f"name one of {known}")
        if self.quantize != "auto":
            raise UsageError("usage", "both --recipe and --quantize are given", "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One bundle written: its path, its manifest, and the measurements of this machine."""

    path: Path
    manifest: Manifest
    measurements: Measurements


@runtime_checkable
class Progress(Protocol):
    """The receiver of an export's progress."""

    def stage(self, name: str) -> None:
        """Receive the name of a step that begins, such as `quantize onnx dynamic-s8`; the previous step has ended."""

    def rows(self, done: int, total: int) -> None:
        """Receive how many rows of a data file a model has answered in this step, about twice a second."""

    def done(self, exported: Exported) -> None:
        """Receive a bundle that was written."""


class NullProgress:
    """A progress that shows nothing."""

    def stage(self, name: str) -> None:
        """Ignore the step."""

    def rows(self, done: int, total: int) -> None:
        """Ignore the rows."""

    def done(self, exported: Exported) -> None:
        """Ignore the bundle."""

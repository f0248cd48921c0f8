"""A folder of PEFT as its files describe it: the base model's folder, the task, and the labels of a trained head.

The exporter merges such a folder; the oracle asks PEFT itself. Both learn here only where things lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from safetensors import SafetensorError, safe_open

from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
#: By PEFT's task type.
#: Source: PEFT 0.21 `TaskType`.
TASKS: Final[dict[str, Task]] = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
#: Methods that put learned tokens before a text instead of changing weights, so that nothing can be merged.
_UNMERGEABLE: Final = (
    *("ADAPTION_PROMPT", "CPT", "MULTITASK_PROMPT_TUNING"),
    *("P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"),
)


class AdapterConfig(msgspec.Struct, frozen=True):
    """adapter_config.json; `megatron_config` makes PEFT import a module that the file names."""

    peft_type: str = ""
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    modules_to_save: tuple[str, ...] | None = None
    megatron_config: dict[str, object] | None = None


def is_adapter(folder: Path) -> bool:
    """Whether a folder was saved by PEFT."""
    return (folder / CONFIG).is_file()


def read(folder: Path) -> AdapterConfig:
    """Read and check the configuration.

    Raises:
        UsageError: `model-unreadable`, `model-unsafe` for a pickle or code, or `model-unsupported`.
    """
    try:
        found = decoding.from_json((folder / CONFIG).read_bytes(), AdapterConfig)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"{folder / CONFIG} can't be read: {error}"
        raise UsageError("model-unreadable", message, "repair or restore the file") from error
    if found.megatron_config:
        raise UsageError("model-unsafe", f"{folder / CONFIG} names a module to import", "set megatron_config to null")
    if found.peft_type in _UNMERGEABLE:
        message = f"{folder} is an adapter of the kind {found.peft_type}, which can't be merged into its base model"
        raise UsageError("model-unsupported", message, "train an adapter that changes weights, such as LoRA")
    if not (folder / WEIGHTS).is_file():
        if any(folder.glob("adapter_model.*")):
            hint = "save it again: peft_model.save_pretrained(FOLDER, safe_serialization=True)"
            raise UsageError("model-unsafe", f"{folder} has its weights as a pickle", hint)
        raise UsageError("model-unreadable", f"{folder} has no {WEIGHTS}", "save the adapter again")
    return found


def base(folder: Path) -> Path:
    """Find the base model's folder: where the configuration says, in the adapter or from here, or beside the adapter.

    Raises:
        UsageError: `model-unreadable`, when it is in none of these places.
    """
    name = read(folder).base_model_name_or_path
    if not name:
        hint = f"set base_model_name_or_path in {CONFIG} to the folder of the base model"
        raise UsageError("model-unreadable", f"{folder} names no base model", hint)
    beside = folder.resolve().parent / Path(name).name
    for place in (folder / name, Path(name), beside):
        if (place / "config.json").is_file():
            return place
    message = f"{folder} is an adapter of {name}, which is not on this disk"
    hint = f"download it beside the adapter: `hf download {name} --local-dir {beside}`"
    raise UsageError("model-unreadable", message, hint)


def settings(folder: Path) -> Path:
    """Return the folder whose config.json holds: the adapter's own, where it has one, or the base model's."""
    return folder if (folder / "config.json").is_file() else base(folder)


def head_labels(folder: Path) -> int | None:
    """Count the outputs of a trained head, which the configuration leaves out; None where none was trained.

    The last layer of a head has as many rows as there are labels, and each other one as many as a hidden layer. A
    wrong count fails when the weights are loaded.

    Raises:
        UsageError: `model-unreadable`.
    """
    trained = read(folder).modules_to_save or ()
    try:
        with safe_open(folder / WEIGHTS, "np") as weights:
            shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        message = f"{folder / WEIGHTS} can't be read: {error}"
        raise UsageError("model-unreadable", message, "save the adapter again") from error
    of_head = (shape for name, shape in shapes.items() if any(f".{module}." in name for module in trained))
    return min((rows for rows, *columns in of_head if columns), default=None)

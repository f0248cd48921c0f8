"""`edgeml.export`: the export for Python callers. It takes a path as the command line does, or a model in memory.

A transformers model is saved to a temporary folder and loaded from there: one way for both. PEFT saves an adapter
without its base model, which is saved beside it. A torch module takes the way of `file.py:function`. The work is done
by `edgeml.pipeline.export`, which imports torch when it is needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict, Unpack

from edgeml import peft_folder, workspace
from edgeml.bundles import Bundle
from edgeml.pipeline.request import Exported, ExportRequest, ModelInMemory, Progress
from edgeml.quantize.recipes import Prefer, Quantize
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format, Task
from edgeml_core.profile import RecipeName

#: Rows to evaluate or calibrate on: a file of JSON lines, or the rows themselves.
DataRows: TypeAlias = Path | str | Iterable[Mapping[str, object]]
#: The fields of a row that name files; relative paths are resolved against the current folder.
_FILE_FIELDS: Final = ("image", "audio")
#: The folder of the base model, in that of its adapter.
_BASE: Final = "base_model"


class ExportOptions(TypedDict, total=False):
    """Further options of `export`: those of `edgeml export` (docs/cli.md), by the names of `ExportRequest`."""

    formats: Sequence[Format]
    task: Task | None
    quantize: Quantize
    recipe: RecipeName | None
    prefer: Prefer | None
    evaluate_rows: int
    max_drop: float
    max_latency_ms: float | None
    max_size_bytes: int | None
    max_ram_bytes: int | None
    name: str | None
    version: str
    overwrite: bool


def export(
    model: object,
    targets: Sequence[str],
    *,
    output: Path | str = ".",
    example: object = None,
    processor: object = None,
    evaluate: DataRows | None = None,
    calibrate: DataRows | None = None,
    progress: Progress | Callable[[str], None] | None = None,
    **options: Unpack[ExportOptions],
) -> list[Bundle]:
    """Export a model, quantize it for each target, check it, and pack one bundle per target and format.

    Args:
        model: a path as `edgeml export MODEL` takes it; a transformers model; a `torch.nn.Module`; or a fitted
            scikit-learn estimator. A model in memory is left as it is.
        targets: names of target profiles, or paths of profile files.
        output: the folder for the bundles; made where it doesn't exist.
        example: inputs of batch 1 for a torch module: a tensor, a tuple of tensors or a dictionary by input name. Rows
            of shape [rows, features] for an estimator.
        processor: the tokenizer, image processor or feature extractor of a transformers model.
        evaluate: labelled rows to measure accuracy on: a file of JSON lines or the rows, such as
            `[{"text": "a cow coughs", "label": "vet"}]`.
        calibrate: rows to calibrate static quantization on.
        progress: is called with each step; an object with the methods of `Progress` also gets each bundle.
        options: see `ExportOptions`.

    Returns:
        The bundles in the order of targets, then formats.

    Raises:
        UsageError: the model, a row, a target or an option is wrong.
        GateFailed: no recipe passed for one of the bundles; `SomeFailed` brings the bundles that were written.
        DeviceError: `runtime-missing`, `runtime-failed` or `disk-full`.

    >>> export("no-such-folder", ["x86-vnni"])
    Traceback (most recent call last):
    ...
    edgeml_core.errors.UsageError: there is no file or folder 'no-such-folder'
    """
    targets = [targets] if isinstance(targets, str) else targets
    with ExitStack() as stack:
        folder = _Scratch(Path(output), stack)
        path, in_memory = _model(model, example, processor, folder)
        request = ExportRequest(
            model=path,
            in_memory=in_memory,
            targets=targets,
            output=Path(output),
            evaluate=_rows(evaluate, "evaluate", folder),
            calibrate=_rows(calibrate, "calibrate", folder),
            **options,
        )
        from edgeml.pipeline.export import export as export_model  # noqa: PLC0415 - imports torch

        exported = export_model(request, _progress(progress))
    return [Bundle.open(it.path) for it in exported]


class _Scratch:
    """A working folder inside the output folder, made when something is written there."""

    def __init__(self, output: Path, stack: ExitStack) -> None:
        self._output, self._stack = output, stack
        self._path: Path | None = None

    def __truediv__(self, name: str) -> Path:
        if self._path is None:
            self._path = self._stack.enter_context(workspace.folder(self._output))
        return self._path / name


def _model(model: Any, example: object, processor: Any, folder: _Scratch) -> tuple[str, ModelInMemory | None]:  # noqa: ANN401
    """Find the path to load, or take the object itself."""
    if isinstance(model, str | Path):
        _refuse(example, "example", "the file describes the inputs of the model")
        _refuse(processor, "processor", "it is read from the folder of the model")
        return str(model), None
    if hasattr(model, "save_pretrained"):
        _refuse(example, "example", "a transformers model comes with its processor")
        return str(_saved(model, processor, folder)), None
    name = type(model).__name__
    _refuse(processor, "processor", "only a transformers model has one")
    if example is None:
        hint = "give example=(tensor,) with inputs of batch 1, or rows for an estimator"
        raise UsageError("usage", f"{name} comes without example inputs", hint)
    return f"<{name} in memory>", ModelInMemory(name=name, model=_detached(model), example=example)


def _refuse(value: object, argument: str, why: str) -> None:
    if value is not None:
        raise UsageError("usage", f"{argument} doesn't belong to this kind of model: {why}", f"leave {argument} out")


def _detached(model: Any) -> Any:  # noqa: ANN401 - the caller's
    """Copy a torch module to the CPU, so that the caller's keeps its mode and its device."""
    copied = copy.deepcopy(model)
    return copied.cpu() if hasattr(copied, "cpu") else copied


def _saved(model: Any, processor: Any, folder: _Scratch) -> Path:  # noqa: ANN401 - transformers has no types here
    """Save a transformers model and its processor as a folder that is named after the model."""
    origin = getattr(getattr(model, "config", None), "name_or_path", "")
    path = folder / (Path(str(origin)).name or type(model).__name__)
    try:
        if hasattr(model, "merge_and_unload"):
            _save_adapter(model, path)
        else:
            _check_saves_all(model)
            model.save_pretrained(path, safe_serialization=True)
        if processor is not None:
            processor.save_pretrained(path)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        hint = "save the model and its processor to a folder, and export that"
        raise UsageError("model-unreadable", f"{type(model).__name__} can't be saved: {error}", hint) from error
    return path


def _save_adapter(model: Any, path: Path) -> None:  # noqa: ANN401 - PEFT has no types here
    """Save an adapter of PEFT, and in its folder the base model as it is in memory.

    An initialization that computes with the base model's weights, as PiSSA, would change them once more on loading.
    """
    status = model.get_model_status()
    if status.active_adapters != ["default"] or status.enabled is not True or status.merged_adapters:
        adapters = ", ".join(status.available_adapters)
        message = (
            f"{type(model).__name__} answers by more, or by less, than one adapter named default: it has {adapters}"
        )
        hint = "export model.merge_and_unload(), or model.unload() for the base model alone"
        raise UsageError("model-unsupported", message, hint)
    copy.deepcopy(model).unload().save_pretrained(path / _BASE, safe_serialization=True)
    model.save_pretrained(path, safe_serialization=True, save_embedding_layers=False)
    file = path / peft_folder.CONFIG
    settings = json.loads(file.read_bytes()) | {"base_model_name_or_path": _BASE}
    if isinstance(settings.get("init_lora_weights"), str):
        settings["init_lora_weights"] = True
    file.write_text(json.dumps(settings))


def _check_saves_all(model: Any) -> None:  # noqa: ANN401 - transformers has no types here
    """Refuse a model whose `save_pretrained` saves an adapter alone: its base model may differ from the disk's."""
    parts = model.modules() if hasattr(model, "modules") else ()
    if any(getattr(part, "_hf_peft_config_loaded", False) for part in parts):
        message = f"{type(model).__name__} has an adapter of PEFT, and saves that without the weights beneath it"
        hint = "wrap the model by peft.get_peft_model(), or save it and export the folder, which names its base model"
        raise UsageError("model-unsupported", message, hint)


def _rows(rows: DataRows | None, name: str, folder: _Scratch) -> Path | None:
    """Write rows in memory as JSON lines; a path is taken as it is."""
    if rows is None or isinstance(rows, str | Path):
        return None if rows is None else Path(rows)
    path = folder / f"{name}.jsonl"
    try:
        path.write_text("".join(f"{json.dumps(_row(row), default=_as_json)}\n" for row in rows))
    except (TypeError, ValueError, AttributeError) as error:
        hint = f"give {name}= a file of JSON lines, or rows such as {{'text': ..., 'label': ...}}"
        raise UsageError("data-invalid", f"a row of {name} is no JSON object: {error}", hint) from error
    return path


def _row(row: Mapping[str, object]) -> dict[str, object]:
    return {
        key: str(Path(value).resolve()) if key in _FILE_FIELDS and isinstance(value, str | Path) else value
        for key, value in row.items()
    }


def _as_json(value: Any) -> object:  # noqa: ANN401 - an array or a scalar of NumPy or torch
    return value.tolist()


def _progress(progress: Progress | Callable[[str], None] | None) -> Progress | None:
    if progress is None or isinstance(progress, Progress):
        return progress
    return _Callback(progress)


class _Callback:
    """A function as the progress of an export."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def stage(self, name: str) -> None:
        """Report that a step begins."""
        self._report(name)

    def rows(self, done: int, total: int) -> None:
        """Report nothing: the function receives steps only."""

    def done(self, exported: Exported) -> None:
        """Report that a bundle was written."""
        self._report(f"wrote {exported.path}")

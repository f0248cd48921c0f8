"""The adapter to Keras: it loads a `.keras` file on Keras' torch backend, and runs no code of the file.

Inputs and outputs are tensors as they are. `keras.Model.predict` judges the bundle, asked in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgeml import keras_torch
from edgeml.exporters import function
from edgeml.exporters.source import Source, TorchModel
from edgeml.exporters.torch_session import ERROR_CHARS, Named, TorchSession, first_answer, specs
from edgeml.oracle import library
from edgeml.oracle.protocol import Reply
from edgeml_core.errors import UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.profile import ModelKind
from edgeml_runtime.tasks import Item, Tensors
from edgeml_runtime.tensors import Array

#: Bytes of the configuration in the file.
CONFIG_MAX_BYTES: Final = 10_000_000
#: Layers that hold code or another library's program.
_UNSAFE: Final = frozenset({"Lambda", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "TFSMLayer"})
#: Names of Keras' own serialization besides its classes: tuples, slices and the like, but no function.
_PLAIN: Final = frozenset(
    {"__tuple__", "__bytes__", "__slice__", "__ellipsis__", "__numpy__", "__tensor__", "__keras_tensor__"}
)
#: Rows for the oracle of each kind: random numbers of these deviations, for images' and tables' scales.
SPREADS: Final = (0.1, 1.0, 10.0, 100.0)
#: Whole numbers fit any vocabulary up to this.
WHOLE_MAX: Final = 3
SEED: Final = 20
_SAVE: Final = "save it with Keras 3: keras.saving.load_model(FILE).save('model.keras'), and name model.keras"
_FUNCTION: Final = "export what the model computes as path/file.py:function, which returns a torch module"


@dataclass(frozen=True)
class KerasJudge:
    """`keras.Model.predict` in the oracle's process, and rows that differ in sign and scale."""

    path: Path
    items: Sequence[Item]

    def reply(self, items: Sequence[Item]) -> Reply:
        """Answer items, each alone.

        Raises:
            UsageError: `model-unreadable` or `extra-missing`, when Keras can't load the file there.
            DeviceError: `probe-crashed`.
        """
        return library.of_environment().ask(self.path, "tensors", items)


class _Model(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A Keras model that takes its inputs in order, as its own structure has them."""

    def __init__(self, keras: Any, model: Any) -> None:  # noqa: ANN401 -- Keras isn't followed
        super().__init__()
        self.inner, self._keras = model, keras
        self._structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401 -- any structure of tensors
        """Run the model as `predict` does, without training."""
        return self.inner(self._keras.tree.pack_sequence_as(self._structure, list(inputs)), training=False)


def load(path: Path, task: Task | None) -> Source:
    """Load the model in a `.keras` file.

    Raises:
        UsageError: `model-unsafe` for layers with code, `model-unreadable`, `model-unsupported`, or `extra-missing`.
    """
    if task not in (None, "tensors"):
        message = f"task {task} is not for .keras files, which take and return tensors"
        raise UsageError("model-unsupported", message, "leave --task out, and name the classes in the client")
    _check_safe(_configuration(path), path)
    keras: Any = keras_torch.load()
    model = _read(keras, path)
    inputs = tuple(_inputs(model))
    rows = list(_rows(inputs))
    module = Named(_Model(keras, model).eval(), tuple(spec.name for spec in inputs), outputs=(), by_keyword=False)
    with first_answer("tensors", rows[0]):
        answered = TorchSession(module).run(rows[0])
        _check_answer(answered)
    made = function.source(
        path.stem,
        module,
        rows[0],
        (inputs, specs(answered)),
        task=None,
        kind=_kind(model),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    return replace(
        made,
        model=TorchModel(module=module, is_captured=True),
        original_name="Keras",
        tools={name: metadata.version(name) for name in ("torch", "keras")},
        judge=KerasJudge(path, [Tensors(row) for row in rows]),
    )


def _configuration(path: Path) -> dict[str, Any]:
    """Read what the layers are, without Keras.

    Raises:
        UsageError: `model-unreadable`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("config.json")
            if entry.file_size > CONFIG_MAX_BYTES:
                message = f"{path} has {entry.file_size} bytes of config.json; {CONFIG_MAX_BYTES} are allowed"
                raise UsageError("model-unreadable", message, _SAVE)
            found = json.loads(archive.read(entry))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise UsageError("model-unreadable", f"{path} is no .keras file of Keras 3: {error}", _SAVE) from error
    if not isinstance(found, dict):
        raise UsageError("model-unreadable", f"{path} has no model in config.json", _SAVE)
    return found


def _check_safe(config: Mapping[str, Any], path: Path) -> None:
    """Refuse code, and classes that aren't Keras' own. The training's settings are never read."""
    for entry in _objects({key: value for key, value in config.items() if key != "compile_config"}):
        name, module = str(entry["class_name"]), str(entry.get("module") or "")
        if name in _UNSAFE or name == "__lambda__":
            message = f"{path} has a {name}, which could run code when it is read"
            raise UsageError("model-unsafe", message, f"use a layer of Keras in its place; or {_FUNCTION}")
        if name in _PLAIN:
            continue
        if module.partition(".")[0] != "keras" or entry.get("registered_name") not in (None, name):
            origin = str(entry.get("registered_name") or module or "no module")
            message = f"{path} has {name} of {origin}, which is not Keras' own"
            raise UsageError("model-unsupported", message, _FUNCTION)
        if isinstance(settings := entry.get("config"), dict) and settings.get("stateful") is True:
            message = f"{path} has a stateful {name}: its answers depend on earlier requests"
            raise UsageError("model-unsupported", message, "save it with stateful=False")


def _objects(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for entry in value:
            yield from _objects(entry)
    elif isinstance(value, dict):
        if "class_name" in value:
            yield value
        for entry in value.values():
            yield from _objects(entry)


def _read(keras: Any, path: Path) -> Any:  # noqa: ANN401 -- Keras isn't followed
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        names = [tensor.name for tensor in model.inputs]
    except Exception as error:  # each layer has its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"Keras can't load {path} on its torch backend: {why}", _SAVE) from error
    if len(set(names)) != len(names) or not names:
        message = f"{path} has the inputs {names}; each needs a name of its own"
        raise UsageError("model-unsupported", message, "name them: keras.Input(..., name=...)")
    return model


def _inputs(model: Any) -> Iterator[TensorSpec]:  # noqa: ANN401 -- as above
    for tensor in model.inputs:
        dtype = DTYPES.get(str(tensor.dtype))
        if dtype is None or dtype == "string":
            message = f"input {tensor.name!r} is of {tensor.dtype}, which a bundle's tensors can't be"
            raise UsageError("model-unsupported", message, f"take numbers as input; or {_FUNCTION}")
        if None in tensor.shape[1:]:
            message = f"input {tensor.name!r} has the shape {list(tensor.shape)}, whose lengths aren't fixed"
            raise UsageError("model-unsupported", message, "build the model with keras.Input of fixed lengths")
        yield TensorSpec(name=tensor.name, dtype=dtype, shape=(-1, *tensor.shape[1:]))


def _rows(inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """Make rows of batch 1: random ones of several scales, zeros, and large numbers."""
    random = np.random.default_rng(SEED)
    for spread in SPREADS:
        yield {spec.name: _row(spec, spread, random) for spec in inputs}
    yield {spec.name: np.zeros((1, *spec.shape[1:]), dtype=spec.dtype) for spec in inputs}
    yield {spec.name: np.abs(_row(spec, SPREADS[-1], random)) for spec in inputs}


def _row(spec: TensorSpec, spread: float, random: np.random.Generator) -> Array:
    shape = (1, *spec.shape[1:])
    if spec.dtype.startswith(("float", "bfloat")):
        return (spread * random.standard_normal(shape)).astype(spec.dtype)
    most = 1 if spec.dtype == "bool" else WHOLE_MAX
    return random.integers(0, most + 1, shape).astype(spec.dtype)


def _check_answer(answered: Mapping[str, Array]) -> None:
    for name, array in answered.items():
        if array.shape[:1] != (1,):
            message = f"output {name!r} has the shape {list(array.shape)} for one row"
            raise UsageError("model-unsupported", message, "return one row for each row that comes in")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"output {name!r} is NaN or infinite for a row of usual numbers"
            raise UsageError("model-unreadable", message, "take a checkpoint from before the training diverged")


def _kind(model: Any) -> ModelKind:  # noqa: ANN401 -- as above
    """Return the kind of model by its layers, as `torch_session.kind` does by its modules."""
    names = [type(part).__name__ for part in model.modules()]
    attends = any("Attention" in name for name in names)
    return "cnn" if sum("Conv" in name for name in names) > 1 and not attends else "encoder"

"""The oracle of a `.keras` file: `keras.Model.predict` on the tensors as they are, on Keras' torch backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeml import keras_torch
from edgeml.oracle.protocol import RawItem
from edgeml_runtime import tensors

keras: Any = keras_torch.load()


def open_file(path: Path) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load the model.

    Returns:
        The library with its version, and a function from an item to its answer.
    """
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def answer(item: RawItem) -> dict[str, Any]:
        rows = {name: tensors.from_data(data) for name, data in item.tensors.items()}
        given = keras.tree.map_structure(lambda it: rows[it.name], inputs)
        return {"outputs": {name: values.tolist() for name, values in _named(model.predict(given, verbose=0))}}

    return f"keras {keras.__version__}", answer


def _named(outputs: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 -- an array, or a list or dictionary of arrays
    if isinstance(outputs, Mapping):
        return [(str(name), np.asarray(values)) for name, values in outputs.items()]
    if isinstance(outputs, list | tuple):
        return [(f"output_{number}", np.asarray(values)) for number, values in enumerate(outputs)]
    return [("output", np.asarray(outputs))]

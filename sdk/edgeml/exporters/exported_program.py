"""A model from a `.pt2` file of torch.export. A file that could run code is refused before torch reads it.

The bundle takes any length only where the program was exported with a dynamic one.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from edgeml.exporters import function
from edgeml.exporters.source import Source
from edgeml.exporters.torch_session import Named, dtype
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.profile import ModelKind
from edgeml_runtime.tensors import Array

#: Lengths are text in the file, which sympy evaluates as Python: only numbers, symbols and their relations are taken.
_LENGTH: Final = re.compile(
    r"(?:Symbol\('[suz]\d+'(?:, \w+=(?:True|False))*\)|[suz]?\d+|Integer|Rational|Add|Mul|Pow|Max|Min"
    r"|FloorDiv|CeilDiv|PythonMod|Mod|(?:Strict)?(?:Greater|Less)Than|Equality|Unequality"
    r"|[ +*/,()-])*"
)
_HINT: Final = "save it again with torch.export.save(torch.export.export(model, inputs), FILE)"


def load(path: Path, task: Task | None) -> Source:
    """Load the model in a `.pt2` file.

    Raises:
        UsageError: `model-unsafe`, when reading it could run code; `model-unreadable`; `model-unsupported`, for a task
            of texts or sounds.
    """
    _check_safe(path)
    try:
        program = torch.export.load(path)
        arguments, keywords = program.example_inputs
    except Exception as error:  # torch lets errors of its reader pass
        raise UsageError("model-unreadable", f"{path} can't be read: {error!r}", _HINT) from error
    function.check_inputs({**{f"number {at}": it for at, it in enumerate(arguments, 1)}, **keywords})
    try:
        names = tuple(program.graph_signature.user_inputs)
        inputs = tuple(_specs(program, names, names))
        example = dict(zip(names, (*arguments, *keywords.values()), strict=True))
    except Exception as error:  # torch lets errors of its reader pass
        raise UsageError("model-unreadable", f"{path} can't be read: {error!r}", _HINT) from error
    module = Named(_Program(program, len(arguments)), names, outputs=(), by_keyword=False)
    tensors = {spec.name: _first(example[spec.name], spec) for spec in inputs}
    named = function.first_outputs(module, tensors, _HINT)
    try:
        outputs = tuple(_specs(program, program.graph_signature.user_outputs, named))
    except Exception as error:  # the program's own operators
        raise UsageError("model-unreadable", f"the model can't run its example: {error!r}", _HINT) from error
    return function.source(
        path.stem,
        module,
        tensors,
        (inputs, outputs),
        task=task,
        kind=_kind(program),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


class _Program(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """An exported program as a module. Converters may request evaluation mode, which is its only mode."""

    def __init__(self, program: Any, positional: int) -> None:  # noqa: ANN401 -- torch has no types here
        super().__init__()
        self._names = tuple(program.graph_signature.user_inputs)[positional:]
        self._positional = positional
        self.inner = program.module()
        self.inner.train = lambda mode=True: self.inner  # noqa: ARG005 -- torch's own raises

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401 -- any structure of tensors
        """Run the program."""
        keywords = dict(zip(self._names, inputs[self._positional :], strict=True))
        return self.inner(*inputs[: self._positional], **keywords)


def _specs(program: Any, nodes: Iterable[str], names: Iterable[str]) -> Iterator[TensorSpec]:  # noqa: ANN401 -- as above
    """Make specs of the graph's nodes with the given names; a dynamic length becomes -1."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    for node, name in zip(nodes, names, strict=True):
        shape = tuple(length if isinstance(length, int) else -1 for length in values[node].shape)
        yield TensorSpec(name=name, dtype=dtype(values[node]), shape=shape)


def _first(value: torch.Tensor, spec: TensorSpec) -> Array:
    """Take the first item of an example, if the program has a dynamic batch axis."""
    return (value[:1] if spec.shape[:1] == (-1,) else value).numpy()  # type: ignore[no-any-return] # torch is not followed


def _kind(program: Any) -> ModelKind:  # noqa: ANN401 -- torch has no types here
    """Return the kind of model by its operators, as `torch_session.kind` does by its modules."""
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    attends = any("attention" in target or "softmax" in target for target in called)
    return "cnn" if sum(".conv" in target for target in called) > 1 and not attends else "encoder"


def _check_safe(path: Path) -> None:
    """Refuse all content but tensors, which `TORCH_FORCE_WEIGHTS_ONLY_LOAD` (see `workspace`) makes safe to read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            documents = [json.loads(archive.read(name)) for name in names if name.endswith(".json")]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError("model-unreadable", f"{path} is no .pt2 file: {error}", _HINT) from error
    unsafe = [name for name in names if "custom_obj" in name or "aotinductor" in name or name.endswith(".so")]
    unsafe += [text for text in _lengths(documents) if not _LENGTH.fullmatch(text)]
    if unsafe:
        raise UsageError("model-unsafe", f"the file could run code: it has {unsafe[0][:80]!r}", _HINT)


def _lengths(value: object) -> Iterator[str]:
    """List the text of every length in a document."""
    if isinstance(value, list):
        for entry in value:
            yield from _lengths(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key == "expr_str":
                yield str(entry)
            yield from _lengths(entry)

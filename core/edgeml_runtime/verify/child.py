"""A bundle proven on the CPU that this process runs on: `python -m edgeml_runtime.verify.child FOLDER`.

Reads a `Request` from stdin, loads the model in FOLDER with the runtime installed here, runs its golden cases, answers
the items, and writes a `Reply` to stdout, both as msgpack. How far the golden outputs are off is data: whoever asked
judges it. How this process comes to run on the target's CPU is the host's business; where that is emulated, the times
in the reply mean nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import numpy as np

from edgeml_core import golden as cases
from edgeml_core.calls import Refused
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Manifest
from edgeml_runtime import stdio
from edgeml_runtime.hardware import board
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item
from edgeml_runtime.tensors import from_data, to_data
from edgeml_runtime.verify import golden
from edgeml_runtime.verify.golden import Distance

_KINDS: Final[dict[str, type[Item]]] = {kind.__name__: kind for kind in get_args(Item)}


class Sent(msgspec.Struct, frozen=True):
    """One item on its way: the name of its kind and its fields, arrays as `TensorData`."""

    kind: str
    fields: dict[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be proven. `manifest` is the bundle's; its files lie in the folder."""

    manifest: Manifest
    items: tuple[Sent, ...] = ()


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: the CPU as it calls itself, the runtime's version, and either both lists or the error."""

    cpu: str
    runtime: str
    distances: tuple[Distance, ...] = ()
    answers: tuple[Any, ...] = ()
    refused: Refused | None = None


def encode(manifest: Manifest, asked: Iterable[Item]) -> bytes:
    """The request for a proof of the bundle with `manifest`, and answers to what is `asked`."""
    sent = tuple(Sent(type(item).__name__, _fields(item)) for item in asked)
    return msgspec.msgpack.encode(Request(manifest=manifest, items=sent))


def prove(folder: Path, request: Request) -> Reply:
    """Run the golden cases and answer the items.

    Args:
        folder: holds the files that the manifest names; the manifest itself need not be there.
        request: what is to be proven.
    """
    this = board.this_machine()
    found = Reply(cpu=this.cpu, runtime=this.runtimes.get(request.manifest.runtime.engine, ""))
    try:
        expected = cases.decode((folder / request.manifest.golden.path).read_bytes())
        model = Model.open(folder, request.manifest)
        try:
            distances = tuple(golden.distances(model.session, request.manifest, expected))
            answers = _answers(model, items(request))
            return msgspec.structs.replace(found, distances=distances, answers=answers)
        finally:
            model.close()
    except EdgemlError as error:
        refused = Refused.of(error)
    except OSError as error:
        refused = Refused.of(DeviceError("store-failed", str(error), "check the folder and the disk"))
    return msgspec.structs.replace(found, refused=refused)


def _answers(model: Model, asked: Sequence[Item]) -> tuple[Answer, ...]:
    """One item at a time: its answer then doesn't depend on the company that it was asked in."""
    return tuple(answer for item in asked for answer in model.predict([item]))


def items(request: Request) -> list[Item]:
    """The items as they were before `encode`."""
    return [msgspec.convert(it.fields, _KINDS[it.kind], dec_hook=_decoded) for it in request.items]


def _fields(item: Item) -> dict[str, Any]:
    return {name: _encoded(value) for name, value in msgspec.structs.asdict(item).items()}


def _encoded(value: Any) -> Any:  # noqa: ANN401 -- whatever an item may hold
    if isinstance(value, np.ndarray):
        return msgspec.to_builtins(to_data(value), builtin_types=(bytes,))
    if isinstance(value, dict):
        return {key: _encoded(it) for key, it in value.items()}
    return value


def _decoded(kind: type, value: object) -> Any:  # noqa: ANN401 -- msgspec's hook; arrays are all that it is asked for
    del kind
    return from_data(msgspec.convert(value, TensorData))


if __name__ == "__main__":
    sys.exit(stdio.answer(Request, partial(prove, Path(sys.argv[1]))))

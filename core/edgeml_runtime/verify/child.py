"""The program that verifies a bundle on the CPU of this process: `python -m edgeml_runtime.verify.child FOLDER`.

It reads a `Request` from stdin and writes a `Reply` to stdout, both msgpack. It loads the model in FOLDER with the
installed runtime, runs the golden cases and answers the items. The distances from the golden outputs are data; the
caller holds them to the bundle's bounds. The times in the reply are no measure of speed on an emulated CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import numpy as np

from edgeml_core import decoding
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
from edgeml_runtime.verify import golden, kernels
from edgeml_runtime.verify.golden import Distance
from edgeml_runtime.verify.kernels import KernelReport

_KINDS: Final[dict[str, type[Item]]] = {kind.__name__: kind for kind in get_args(Item)}


class EncodedItem(msgspec.Struct, frozen=True):
    """One item: the name of its kind, and its fields with arrays as `TensorData`."""

    kind: str
    fields: dict[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle to verify, by its manifest; its files lie in the folder. The items are to be answered as well.

    With a gauge the kernels of a language model are reported.
    """

    manifest: Manifest
    items: tuple[EncodedItem, ...] = ()
    gauge: bytes = b""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU's own name, the runtime's version, and either both lists or the error."""

    cpu: str
    runtime: str
    distances: tuple[Distance, ...] = ()
    answers: tuple[Any, ...] = ()
    kernels: KernelReport | None = None
    refused: Refused | None = None


def encode(manifest: Manifest, items: Iterable[Item], gauge: bytes = b"") -> bytes:
    """Encode the request to verify the bundle of `manifest`, to answer `items` and to run the gauge."""
    encoded = tuple(EncodedItem(type(item).__name__, _fields(item)) for item in items)
    return msgspec.msgpack.encode(Request(manifest=manifest, items=encoded, gauge=gauge))


def verify(folder: Path, request: Request) -> Reply:
    """Run the golden cases and answer the items.

    Args:
        folder: holds the files that the manifest names; the manifest itself need not be there.
        request: names the bundle and the items.
    """
    this = board.this_machine()
    empty = Reply(cpu=this.cpu, runtime=this.runtimes.get(request.manifest.runtime.engine, ""))
    try:
        expected = cases.decode((folder / request.manifest.golden.path).read_bytes())
        model = Model.open(folder, request.manifest)
        try:
            distances = tuple(golden.distances(model.session, request.manifest, expected))
            if all(it.within(request.manifest.golden) for it in distances):
                golden.check_tokens(model.session, request.manifest, expected)
            answers = _answers(model, decode_items(request))
        finally:
            model.close()
        path = folder / request.manifest.model
        found = kernels.report(path, request.manifest, request.gauge) if request.gauge else None
        return msgspec.structs.replace(empty, distances=distances, answers=answers, kernels=found)
    except EdgemlError as error:
        refused = Refused.of(error)
    except OSError as error:
        refused = Refused.of(DeviceError("store-failed", str(error), "check the folder and the disk"))
    return msgspec.structs.replace(empty, refused=refused)


def _answers(model: Model, items: Sequence[Item]) -> tuple[Answer, ...]:
    """Answer one item at a time, so that no answer depends on the other items of a batch."""
    return tuple(answer for item in items for answer in model.predict([item]))


def decode_items(request: Request) -> list[Item]:
    """Decode the items that `encode` encoded."""
    return [decoding.convert(it.fields, _KINDS[it.kind], dec_hook=_decoded) for it in request.items]


def _fields(item: Item) -> dict[str, Any]:
    return {name: _encoded(value) for name, value in msgspec.structs.asdict(item).items()}


def _encoded(value: Any) -> Any:  # noqa: ANN401 -- a value of any field of an item
    if isinstance(value, np.ndarray):
        return msgspec.to_builtins(to_data(value), builtin_types=(bytes,))
    if isinstance(value, dict):
        return {key: _encoded(it) for key, it in value.items()}
    return value


def _decoded(kind: type, value: object) -> Any:  # noqa: ANN401 -- msgspec's hook, called for arrays only
    del kind
    return from_data(decoding.convert(value, TensorData))


if __name__ == "__main__":
    sys.exit(stdio.answer(Request, partial(verify, Path(sys.argv[1]))))

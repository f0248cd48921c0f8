"""The final form of an ONNX model: `model.onnx` and `model.weights`, the same bytes for the same model.

Every tensor lies at an aligned offset in the order of the graph, so that a runtime can map the large ones. Offsets
depend on shapes alone, so two versions of one architecture have equal offsets. A new version then differs from the old
one only in the chunks whose weights changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import onnx
from onnx import TensorProto, numpy_helper

from edgeml.exporters.source import Built, Signature
from edgeml_core.profile import RecipeName

MODEL: Final = "model.onnx"
WEIGHTS: Final = "model.weights"
#: Bytes of a page; a runtime can map at its multiples on every supported system.
PAGE_BYTES: Final = 4096
#: Bytes of a tensor that begins a page. Smaller ones would be padded by up to four times their size: 16 % of a model
#: of 150 kB were zeros.
PAGE_MIN_BYTES: Final = 32 * PAGE_BYTES
#: Bytes of a cache line; smaller tensors begin at its multiples.
LINE_BYTES: Final = 64
#: Bytes of a tensor; a smaller one stays in the graph, where shape inference reads it and padding costs nothing.
EXTERNAL_MIN_BYTES: Final = 1024


def write(model: onnx.ModelProto, folder: Path, *, recipe: RecipeName, signature: Signature) -> Built:
    """Write a model to `folder`; it changes `model`, which must not be used after that."""
    with (folder / WEIGHTS).open("wb") as weights:
        for tensor in model.graph.initializer:
            _store(tensor, weights)
    _strip(model)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    return Built(file_format="onnx", recipe=recipe, folder=folder, model=MODEL, weights=(WEIGHTS,), signature=signature)


def _store(tensor: TensorProto, weights: BinaryIO) -> None:
    if tensor.data_type == TensorProto.STRING:  # it has no raw data
        return
    data = numpy_helper.to_array(tensor).tobytes()
    name, dims, data_type = tensor.name, tuple(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, data_type
    tensor.dims.extend(dims)
    if len(data) < EXTERNAL_MIN_BYTES:
        tensor.raw_data = data
        return
    alignment = PAGE_BYTES if len(data) >= PAGE_MIN_BYTES else LINE_BYTES
    offset = -(-weights.tell() // alignment) * alignment
    weights.write(b"\0" * (offset - weights.tell()) + data)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _strip(model: onnx.ModelProto) -> None:
    """Remove metadata of the exporting machine, which exporters leave in the file."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]

"""The weights of a GGUF file, restored to fp32 by the `gguf` package. Types that no test compares are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeml.exporters.gguf.container import Container, Tensor, unreadable, unsupported
from edgeml_core.errors import UsageError
from edgeml_runtime.tensors import Array

#: Types by their names in ggml. `tests/oracle/test_gguf.py` compares each with llama.cpp.
KINDS: Final = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
)


def check(container: Container) -> None:
    """Check that all tensors are of known types and lie inside the file, where no two of them share a byte.

    Raises:
        UsageError: `model-unsupported` for another type, or `model-unreadable`.
    """
    places = sorted((it.begin, name) for name, it in container.tensors.items())
    after = 0
    for begin, name in places:
        if begin < after:
            raise unreadable(container.path, f"has the tensor {name!r} inside another one")
        after = begin + _size_bytes(container.path, name, container.tensors[name])
    if after > container.size_bytes:
        why = f"is cut short: it has {container.size_bytes} of {after} bytes"
        raise unreadable(container.path, why)


def restore(container: Container, name: str) -> Array:
    """Restore a tensor to fp32.

    Raises:
        UsageError: `extra-missing` without the `gguf` package; `model-unreadable`, when a weight is no finite number.
    """
    tensor = container.tensors[name]
    size_bytes = _size_bytes(container.path, name, tensor)
    stored = np.memmap(container.path, np.uint8, "r", tensor.begin, (size_bytes,))
    rows = stored.reshape(*tensor.shape[:-1], -1)
    kind = _gguf().GGMLQuantizationType(tensor.kind)
    with np.errstate(all="ignore"):  # a weight that is no number is reported below
        values = np.ascontiguousarray(_gguf().dequantize(rows, kind), np.float32).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise unreadable(container.path, f"has weights that are NaN or infinite: {name!r}")
    return values


def kinds(container: Container) -> str:
    """List the types of the tensors that have two axes, with their numbers, for the card."""
    found = [_kind(it.kind) for it in container.tensors.values() if len(it.shape) > 1]
    return ", ".join(f"{found.count(name)} in {name}" for name in sorted(set(found)))


def _size_bytes(path: Path, name: str, tensor: Tensor) -> int:
    """Compute the bytes that a tensor takes in the file."""
    kind = _kind(tensor.kind)
    if kind not in KINDS:
        raise unsupported(path, f"has the tensor {name!r} of the type {kind}; edgeml restores {', '.join(KINDS)}")
    elements, size_bytes = _gguf().GGML_QUANT_SIZES[_gguf().GGMLQuantizationType(tensor.kind)]
    count = math.prod(tensor.shape)
    if not tensor.shape or count == 0 or tensor.shape[-1] % elements:
        raise unreadable(path, f"has the tensor {name!r} of the shape {list(tensor.shape)}, which has no whole blocks")
    return count // int(elements) * int(size_bytes)


def _kind(number: int) -> str:
    try:
        return str(_gguf().GGMLQuantizationType(number).name)
    except ValueError:
        return f"number {number}"


def _gguf() -> Any:  # noqa: ANN401 -- the package isn't followed
    try:
        import gguf  # noqa: PLC0415 -- an extra of its own
    except ImportError as error:
        hint = "pip install 'edgeml-deploy[export-gguf]'"
        raise UsageError("extra-missing", f"GGUF files need {error.name}", hint) from error
    return gguf

"""The RAM that a model will need on its device, estimated, and the gate on it."""

from __future__ import annotations

from typing import Final

from edgeml.exporters.source import Built
from edgeml.quantize import recipes
from edgeml_core.errors import GateFailed
from edgeml_core.processing import TextInput
from edgeml_core.profile import Profile

#: Bytes of RAM for each byte of weights: the weights, the copy that the runtime packs of a part, and activations.
#: Source: design measurement of onnxruntime, 67 M parameters: 346 MB for 268 MB in fp32, 91 MB for 67 MB in int8.
RAM_PER_BYTE: Final = 1.4
#: Fraction of int8 weights that LiteRT packs again for each further length: those of products, not of embeddings. It
#: is 0.45 in MiniLM (12 of 26 MB, measured) and 0.78 in BERT-base; a model of large layers decides.
PACKED_FRACTION: Final = 0.8
#: Bytes of the runtime itself, with Python and numpy. Source: resident size measured after loading a model of 20 kB,
#: rounded up.
RUNTIME_BYTES: Final = 64 * 1024 * 1024


def estimate_bytes(model: Built, fp32: Built) -> int:
    """Estimate the resident memory of a process that serves `model`, in bytes.

    It is the runtime's own, and a multiple of the weights. Weights stored in int8 or fp16 alone run as fp32. LiteRT
    packs a copy of the weights for every fixed length; in int8 the first copy is part of `RAM_PER_BYTE`.
    """
    is_float = recipes.TABLE[model.recipe].runs_as_float
    weights_bytes = fp32.size_bytes if is_float else model.size_bytes + model.restored_bytes
    copies = 0.0
    if model.file_format == "tflite":
        lengths = _fixed_lengths(model)
        copies = lengths if is_float else PACKED_FRACTION * (lengths - 1)
    return RUNTIME_BYTES + int(weights_bytes * (RAM_PER_BYTE + copies))


def _fixed_lengths(model: Built) -> int:
    preprocess = model.signature.preprocess
    return len(preprocess.pad_to) if isinstance(preprocess, TextInput) else 1


def check_memory(needed_bytes: int, profile: Profile, max_bytes: int | None = None) -> None:
    """Check that a model fits into the target's memory for one model, and into the request's limit.

    Args:
        needed_bytes: as estimated.
        profile: the target.
        max_bytes: the request's limit.

    Raises:
        GateFailed: `gate-failed`, naming both figures.
    """
    needed, given = needed_bytes, profile.memory.model_bytes
    if needed > given:
        raise GateFailed(
            "gate-failed",
            f"the model needs about {needed / 1e6:.0f} MB of RAM; {profile.name} gives it {given / 1e6:.0f} MB",
            "take a smaller model, or a target with more memory",
        )
    if max_bytes is not None and needed > max_bytes:
        raise GateFailed(
            "gate-failed",
            f"the model needs about {needed / 1e6:.0f} MB of RAM; --max-ram allows {max_bytes / 1e6:.3g} MB",
            "take a smaller model, or allow more with --max-ram",
        )

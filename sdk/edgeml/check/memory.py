"""The RAM that a model will need on its device, estimated: what a board can't hold must not be sent there."""

from __future__ import annotations

from typing import Final

from edgeml.exporters.source import Built
from edgeml.quantize import recipes
from edgeml_core.errors import GateFailed
from edgeml_core.processing import TextInput
from edgeml_core.profile import Profile

#: Bytes of RAM for each byte of weights: the weights, the runtime's repacked copy of a part, and activations.
#: Source: design measurement of onnxruntime, 67 M parameters: 346 MB for 268 MB in fp32, 91 MB for 67 MB in int8.
RAM_PER_BYTE: Final = 1.4
#: The runtime itself, with Python and numpy. Source: resident size measured after loading a model of 20 kB, rounded up.
RUNTIME_BYTES: Final = 64 * 1024 * 1024


def estimate_bytes(model: Built, fp32: Built) -> int:
    """The resident memory of a process that serves `model`.

    The runtime's own, and a share for each byte of weights. Weights stored in int8 or fp16 alone run as fp32, and
    LiteRT packs float weights anew for every fixed length (measured on MiniLM with two: 353 MB for 90 MB in fp32).
    """
    is_float = recipes.TABLE[model.recipe].runs_as_float
    packed = _fixed_lengths(model) if is_float and model.file_format == "tflite" else 0
    weights_bytes = fp32.size_bytes if is_float else model.size_bytes
    return RUNTIME_BYTES + int(weights_bytes * (RAM_PER_BYTE + packed))


def _fixed_lengths(model: Built) -> int:
    preprocess = model.signature.preprocess
    return len(preprocess.pad_to) if isinstance(preprocess, TextInput) else 1


def check_memory(needed_bytes: int, profile: Profile, max_bytes: int | None = None) -> None:
    """Check that a model fits into what the target gives it, and into what was asked.

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

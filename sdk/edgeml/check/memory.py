"""The RAM that a model will need on its device, estimated, and the gate on it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import msgspec

from edgeml.exporters.source import Built, Signature
from edgeml.quantize import recipes
from edgeml_core.errors import GateFailed
from edgeml_core.golden import ITEM_BYTES
from edgeml_core.processing import AudioInput, Decoded, Generation, PromptInput, TextInput
from edgeml_core.profile import Profile
from edgeml_runtime.encode.log_mel import HOP_SAMPLES

#: Bytes of RAM for each byte of weights: the weights, the copy that the runtime packs of a part, and activations.
#: Source: design measurement of onnxruntime, 67 M parameters: 346 MB for 268 MB in fp32, 91 MB for 67 MB in int8.
RAM_PER_BYTE: Final = 1.4
#: Fraction of int8 weights that LiteRT packs again for each further length: those of products, not of embeddings. It
#: is 0.45 in MiniLM (12 of 26 MB, measured) and 0.78 in BERT-base; a model of large layers decides.
PACKED_FRACTION: Final = 0.8
#: Frames of a spectrum that become one position of Whisper's encoder, and bytes of one score of its attention.
POSITION_FRAMES: Final = 2
SCORE_BYTES: Final = 4
#: Bytes of the runtime itself, with Python and numpy. Source: peak resident size measured behind a model of 20 kB
#: (64 MiB) beside what texts are generated with (67 MiB), rounded up.
RUNTIME_BYTES: Final = 72 * 1024 * 1024
#: Bytes of a run over a part of a long prompt, which are scores for the most part. Measured: 18 MB with 4 heads.
PROMPT_BYTES: Final = 32 * 1024 * 1024
#: Tokens of a conversation in steps of which it is shortened, and those that a target must have memory for.
CONTEXT_STEP: Final = 64
CONTEXT_MIN: Final = 256


def estimate_bytes(model: Built, fp32: Built) -> int:
    """Estimate the resident memory of a process that serves `model`, in bytes.

    It is the runtime's own, a multiple of the weights, and the keys and values of one conversation of full length.
    Weights stored in int8 or fp16 alone run as fp32. LiteRT packs a copy of the weights for every fixed length; in int8
    the first copy is part of `RAM_PER_BYTE`.
    """
    is_float = recipes.TABLE[model.recipe].runs_as_float
    weights_bytes = fp32.size_bytes if is_float else model.size_bytes + model.restored_bytes
    copies = 0.0
    if model.file_format == "tflite":
        lengths = _fixed_lengths(model)
        copies = lengths if is_float else PACKED_FRACTION * (lengths - 1)
    own = _cache_bytes(model.signature) + _encoder_bytes(model.signature)
    return RUNTIME_BYTES + int(weights_bytes * (RAM_PER_BYTE + copies)) + own


def fit_context(model: Built, fp32: Built, profile: Profile, max_bytes: int | None = None) -> Built:
    """Shorten a language model's conversations to those whose cache fits the target's memory beside the weights.

    Args:
        model: the candidate; another kind of model is returned as it is.
        fp32: the form that it was made from.
        profile: the target.
        max_bytes: the request's limit.
    """
    prompt, each = model.signature.preprocess, _cache_bytes_per_token(model.signature)
    if not isinstance(prompt, PromptInput) or not each:
        return model
    given = min(profile.memory.model_bytes, max_bytes or profile.memory.model_bytes)
    free = given - estimate_bytes(model, fp32) + each * prompt.max_length
    tokens = max(free // each // CONTEXT_STEP * CONTEXT_STEP, CONTEXT_MIN)
    if tokens >= prompt.max_length:
        return model
    note = (
        f"a conversation has at most {tokens} tokens; the original takes {prompt.max_length}, "
        f"and {profile.name} has no memory for their keys and values"
    )
    shorter = msgspec.structs.replace(prompt, max_length=tokens)
    return replace(model, signature=replace(model.signature, preprocess=shorter), notes=(*model.notes, note))


def _cache_bytes(signature: Signature) -> int:
    """The memory of the keys and values of one conversation of full length, and of a run that reads into them."""
    prompt = signature.preprocess
    if not isinstance(prompt, PromptInput):
        return 0
    return PROMPT_BYTES + _cache_bytes_per_token(signature) * prompt.max_length


def _cache_bytes_per_token(signature: Signature) -> int:
    if not isinstance(signature.postprocess, Generation):
        return 0
    kept = [it for it in signature.inputs if it.name in signature.postprocess.past]
    return sum(math.prod(size for size in it.shape if size > 0) * ITEM_BYTES[it.dtype] for it in kept)


def _encoder_bytes(signature: Signature) -> int:
    """Estimate what an encoder with a decoder takes beside its weights.

    That is one layer's scores with their softmax, and the keys and values that later runs take over, twice.
    """
    spec = signature.postprocess
    if not isinstance(spec, Decoded):
        return 0
    positions = _positions(signature)
    heads = next(it.shape[1] for it in signature.inputs if it.name in spec.cross)
    lengths = dict.fromkeys(spec.past, spec.max_tokens) | dict.fromkeys(spec.cross, positions)
    kept = (
        lengths[it.name] * math.prod(size for size in it.shape if size > 0) * ITEM_BYTES[it.dtype]
        for it in signature.inputs
        if it.name in lengths
    )
    return 2 * (SCORE_BYTES * heads * positions**2 + sum(kept))


def _positions(signature: Signature) -> int:
    """Count the positions of the longest text or sound that an encoder reads."""
    match signature.preprocess:
        case AudioInput(log_mel=spectrum) if spectrum:
            return spectrum.samples // HOP_SAMPLES // POSITION_FRAMES
        case TextInput(max_length=tokens):
            return tokens
        case _:
            return 0


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

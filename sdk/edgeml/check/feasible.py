"""Facts about a model on a target from its sizes alone, before a weight is read: whether it fits, how fast it writes.

The sizes stand in a folder's config.json, or in the metadata of a GGUF file.

The arithmetic is a lower bound of sizes: a model that passes may still fail the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgeml.check.memory import RAM_PER_BYTE, RUNTIME_BYTES
from edgeml.exporters import not_a_model
from edgeml.quantize import recipes
from edgeml_core import decoding
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.profile import Profile

#: Bytes for each weight in the target's smallest recipe.
_BYTES_4BIT: Final = 0.5
_BYTES_INT8: Final = 1.0
_BYTES_FP32: Final = 4.0
#: Endings of the architectures that write text.
_WRITING: Final = ("ForCausalLM", "LMHeadModel")


class _Shape(msgspec.Struct, frozen=True):
    """The sizes in a transformer's config.json, under the names of several architectures."""

    hidden_size: int | None = None
    n_embd: int | None = None
    d_model: int | None = None
    dim: int | None = None
    num_hidden_layers: int | None = None
    n_layer: int | None = None
    n_layers: int | None = None
    num_layers: int | None = None
    intermediate_size: int | None = None
    n_inner: int | None = None
    hidden_dim: int | None = None
    vocab_size: int = 0
    hidden_act: str = ""
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    architectures: tuple[str, ...] | None = None


def parameters(model: Path) -> int | None:
    """Count the weights of a transformer, as a lower bound; None where its config.json lacks the sizes.

    The sum has the embeddings once. Each layer adds four square matrices of attention, and two of the feed-forward
    part, or three where it is gated. Norms, biases and heads are left out.
    """
    return _parameters(_shape(model))


def _parameters(shape: _Shape | None) -> int | None:
    if shape is None:
        return None
    width = shape.hidden_size or shape.n_embd or shape.d_model or shape.dim
    layers = shape.num_hidden_layers or shape.n_layer or shape.n_layers or shape.num_layers
    if not width or not layers:
        return None
    inner = shape.intermediate_size or shape.n_inner or shape.hidden_dim or 4 * width
    grouped = (shape.num_key_value_heads or 1) / (shape.num_attention_heads or 1) if shape.num_key_value_heads else 1
    gated = 3 if "silu" in shape.hidden_act or "swi" in shape.hidden_act else 2
    return int(shape.vocab_size * width + layers * (2 * width**2 * (1 + grouped) + gated * width * inner))


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A language model on a board with weights of one size, from arithmetic alone.

    Attributes:
        weights: `fp32`, `int8` or `4 bits`.
        size_bytes: of the weights, at least.
        ram_bytes: the memory it needs, at least, without the keys and values of a conversation.
        fits: whether the target gives a model as much.
        tokens_per_s: tokens a second that it writes at most, by published runs on the board; None where there are none.
    """

    weights: str
    size_bytes: int
    ram_bytes: int
    fits: bool
    tokens_per_s: float | None


def predict(model: Path, profile: Profile) -> list[Prediction]:
    """Predict a language model's memory and speed on a target from its sizes, for each size of weights.

    Raises:
        UsageError: `usage`, when the folder has no config.json with the sizes, or another kind of model;
            `model-unreadable` or `model-unsupported`, for a GGUF file that edgeml can't export.
    """
    shape = _shape(model)
    count = _parameters(shape)
    if count is None:
        raise UsageError("usage", f"{model} has no config.json with a transformer's sizes", "name a model's folder")
    named = shape.architectures if shape else None
    if named and not any(it.endswith(_WRITING) for it in named):
        raise UsageError(
            "usage", f"{model} has {', '.join(named)}, which writes no text", "name a language model's folder"
        )
    rate, found = profile.memory.decode_bytes_per_s, []
    for weights, each in (("fp32", _BYTES_FP32), ("int8", _BYTES_INT8), ("4 bits", _BYTES_4BIT)):
        size_bytes, ram_bytes = int(count * each), _ram_bytes(count, each)
        found.append(
            Prediction(
                weights=weights,
                size_bytes=size_bytes,
                ram_bytes=ram_bytes,
                fits=ram_bytes <= profile.memory.model_bytes,
                tokens_per_s=round(rate / size_bytes, 1) if rate else None,
            )
        )
    return found


def _ram_bytes(count: int, each: float) -> int:
    return RUNTIME_BYTES + int(count * each * RAM_PER_BYTE)


def _shape(model: Path) -> _Shape | None:
    if model.suffix == ".gguf" and model.is_file():
        from edgeml.exporters.gguf import folder  # noqa: PLC0415 -- the export's extra

        not_a_model.check_file(model)
        return decoding.convert(folder.config(model), _Shape)
    path = model / "config.json"
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        return decoding.from_json(path.read_bytes(), _Shape)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def check_feasible(model: str, profile: Profile, *, quantized: bool, max_ram_bytes: int | None = None) -> None:
    """Check that a model can fit the target in its smallest recipe.

    Args:
        model: the folder, or the GGUF file; any other source passes.
        profile: the target.
        quantized: whether int8 may be tried.
        max_ram_bytes: the request's own bound.

    Raises:
        GateFailed: `gate-failed`, with the arithmetic.
        UsageError: `model-unreadable` or `model-unsupported`, for a GGUF file that edgeml can't export.
    """
    count = parameters(Path(model))
    if count is None:
        return
    each = _bytes_each(profile) if quantized else _BYTES_FP32
    needed = _ram_bytes(count, each)
    given = min(profile.memory.model_bytes, max_ram_bytes or profile.memory.model_bytes)
    if needed > given:
        raise GateFailed(
            "gate-failed",
            f"{profile.name} can't hold this model: {count / 1e9:.2f} billion weights x {each:g} byte(s) x "
            f"{RAM_PER_BYTE} + {RUNTIME_BYTES / 1e6:.0f} MB for the runtime = {needed / 1e6:.0f} MB; "
            f"a model is given {given / 1e6:.0f} MB of the board's {profile.memory.ram_bytes / 1e6:.0f} MB",
            "take a smaller model, or a target with more memory",
        )


def _bytes_each(profile: Profile) -> float:
    every = [name for setup in profile.engines.values() for order in setup.recipes.values() for name in order]
    return _BYTES_4BIT if any(recipes.TABLE[name].bits == 4 for name in every) else _BYTES_INT8

"""Architectures of GGUF files: their metadata as transformers' config.json, their tensors under transformers' names.

An entry of the metadata that isn't known here may change the answers, so it is refused by name. So is a tensor that
transformers' architecture has no place for, and one that is missing or has another shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edgeml.exporters.gguf.container import Container, Value, unreadable, unsupported
from edgeml.exporters.gguf.entries import Entries
from edgeml_runtime.tensors import Array

EMBEDDINGS: Final = "token_embd.weight"
HEAD: Final = "output.weight"
#: Divisors of the rotations' frequencies, as Llama 3.1 and later have them.
ROPE_FACTORS: Final = "rope_freqs.weight"
#: Entries of the metadata, behind the architecture's name, that are read for each architecture.
_READ: Final = frozenset(
    {"context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"}
    | {"attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"}
    | {"attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scaling.type"}
    | {"rope.scaling.factor", "rope.scale_linear"}
)
#: Those that change nothing where no other scaling of the rotations is: notes on how the model was trained or written.
_IDLE: Final = frozenset({"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"})
#: Those that must have this value where they are present.
_FIXED: Final[Mapping[str, Value]] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "pooling_type": 0,
    "rope.scaling.attn_factor": 1.0,
}
#: Layers; `exporters/huggingface/weights.py` has the same limit.
_LAYERS_MAX: Final = 2000
_BLOCK: Final = re.compile(r"blk\.(\d{1,4})\.(.+)")
_TOLERANCE: Final = 1e-5
#: Rotary positions of Llama 3.1 and 3.2, but for the factor.
_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
#: Sizes by name, in the order of a tensor's axes.
_Shape = tuple[str, ...]
#: By a tensor's name in its layer: transformers' name, and the shape.
_Names = dict[str, tuple[str, _Shape]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A GGUF architecture and its equal in transformers.

    Args:
        model_type: transformers' name.
        model: transformers' class.
        block: the tensors of a layer.
        biases: further tensors of a layer, which a file has for all layers or for none.
        biases_setting: says in config.json whether there are `biases`.
        interleaved: whether the halves of each rotated pair lie beside each other in the file.
        norm_offset: that the file has on top of transformers' norms.
        read: further entries of the metadata.
        settings: makes further fields of config.json.
    """

    model_type: str
    model: str
    block: _Names
    biases: _Names = field(default_factory=dict)
    biases_setting: str = ""
    interleaved: bool = False
    norm_offset: float = 0.0
    read: frozenset[str] = frozenset()
    settings: Callable[[Entries, Mapping[str, int]], dict[str, Any]] = lambda *_: {}


_LAYER: Final[_Names] = {
    "attn_norm.weight": ("input_layernorm.weight", ("width",)),
    "attn_q.weight": ("self_attn.q_proj.weight", ("queries", "width")),
    "attn_k.weight": ("self_attn.k_proj.weight", ("keys", "width")),
    "attn_v.weight": ("self_attn.v_proj.weight", ("keys", "width")),
    "attn_output.weight": ("self_attn.o_proj.weight", ("width", "queries")),
    "ffn_gate.weight": ("mlp.gate_proj.weight", ("inner", "width")),
    "ffn_up.weight": ("mlp.up_proj.weight", ("inner", "width")),
    "ffn_down.weight": ("mlp.down_proj.weight", ("width", "inner")),
}
_SECOND_NORM: Final[_Names] = {"ffn_norm.weight": ("post_attention_layernorm.weight", ("width",))}
_QKV_BIASES: Final[_Names] = {
    "attn_q.bias": ("self_attn.q_proj.bias", ("queries",)),
    "attn_k.bias": ("self_attn.k_proj.bias", ("keys",)),
    "attn_v.bias": ("self_attn.v_proj.bias", ("keys",)),
}
_HEAD_NORMS: Final[_Names] = {
    "attn_q_norm.weight": ("self_attn.q_norm.weight", ("head",)),
    "attn_k_norm.weight": ("self_attn.k_norm.weight", ("head",)),
}
#: The further norms in a layer of Gemma 2 and 3.
_GEMMA_NORMS: Final[_Names] = {
    "post_attention_norm.weight": ("post_attention_layernorm.weight", ("width",)),
    "ffn_norm.weight": ("pre_feedforward_layernorm.weight", ("width",)),
    "post_ffw_norm.weight": ("post_feedforward_layernorm.weight", ("width",)),
}
_OUTPUT_BIAS: Final[_Names] = {"attn_output.bias": ("self_attn.o_proj.bias", ("width",))}


def _gemma(entries: Entries, sizes: Mapping[str, int], *, largest_layers: int) -> dict[str, Any]:
    """Set what Gemma 2 and 3 have in common: layers with a window, and the scale of the scores.

    Source: llama.cpp's models/gemma2.cpp and gemma3.cpp, for what the file doesn't have.
    """
    # The 27B models alone scale their scores by the width.
    scaled_by = sizes["width"] // sizes["heads"] if sizes["layers"] == largest_layers else sizes["head"]
    return {
        "sliding_window": entries.integer("attention.sliding_window"),
        "query_pre_attn_scalar": scaled_by,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": entries.real("attn_logit_softcapping", 0.0) or None,
        "final_logit_softcapping": entries.real("final_logit_softcapping", 0.0) or None,
    }


def _gemma2(entries: Entries, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Set the windows of every second layer."""
    kinds = ["full_attention" if at % 2 else "sliding_attention" for at in range(sizes["layers"])]
    return {**_gemma(entries, sizes, largest_layers=46), "layer_types": kinds}


def _gemma3(entries: Entries, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Set the windows of five in six layers, which have rotations of their own."""
    kinds = ["full_attention" if at % 6 == 5 else "sliding_attention" for at in range(sizes["layers"])]
    local = entries.real("rope.freq_base_swa", 10_000.0)
    return {**_gemma(entries, sizes, largest_layers=62), "layer_types": kinds, "rope_local_base_freq": local}


def _granite(entries: Entries, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Set Granite's factors; without one of them llama.cpp takes 1, or scales the scores by the head."""
    return {
        "embedding_multiplier": entries.real("embedding_scale", 0.0) or 1.0,
        "residual_multiplier": entries.real("residual_scale", 0.0) or 1.0,
        "attention_multiplier": entries.real("attention.scale", 0.0) or sizes["head"] ** -0.5,
        "logits_scaling": entries.real("logit_scale"),
    }


_ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    # Also Mistral's, SmolLM's and others': the same layers under other names.
    "llama": Architecture(
        model_type="llama",
        model="LlamaForCausalLM",
        block=_LAYER | _SECOND_NORM,
        biases=_QKV_BIASES | _OUTPUT_BIAS,
        biases_setting="attention_bias",
        interleaved=True,
    ),
    "qwen2": Architecture(model_type="qwen2", model="Qwen2ForCausalLM", block=_LAYER | _SECOND_NORM | _QKV_BIASES),
    "qwen3": Architecture(
        model_type="qwen3",
        model="Qwen3ForCausalLM",
        block=_LAYER | _SECOND_NORM | _HEAD_NORMS,
        biases=_QKV_BIASES | _OUTPUT_BIAS,
        biases_setting="attention_bias",
    ),
    "granite": Architecture(
        model_type="granite",
        model="GraniteForCausalLM",
        block=_LAYER | _SECOND_NORM,
        biases=_QKV_BIASES | _OUTPUT_BIAS,
        biases_setting="attention_bias",
        interleaved=True,
        read=frozenset({"embedding_scale", "residual_scale", "attention.scale", "logit_scale"}),
        settings=_granite,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        model="Gemma2ForCausalLM",
        block=_LAYER | _GEMMA_NORMS,
        norm_offset=1.0,
        read=frozenset({"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}),
        settings=_gemma2,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        model="Gemma3ForCausalLM",
        block=_LAYER | _GEMMA_NORMS | _HEAD_NORMS,
        norm_offset=1.0,
        read=frozenset({"attention.sliding_window", "rope.freq_base_swa"}),
        settings=_gemma3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A tensor of the file and its place in transformers.

    Args:
        name: transformers'.
        heads: of queries or keys whose rotated halves are put apart; 0 for none.
        offset: subtracted from the values.
    """

    name: str
    heads: int = 0
    offset: float = 0.0

    def of(self, values: Array) -> Array:
        """Change the file's values to transformers'."""
        if self.heads:
            pairs = values.reshape(self.heads, -1, 2, *values.shape[1:])
            values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        return values - np.float32(self.offset) if self.offset else values


class Layout:
    """A file's architecture with its sizes.

    Raises:
        UsageError: `model-unsupported` or `model-unreadable`, naming the entry or the tensor.
    """

    def __init__(self, container: Container) -> None:
        self._path, self._tensors = container.path, container.tensors
        name = Entries(container, "general.").text("architecture")
        if name not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise unsupported(self._path, f"has the architecture {name!r}; edgeml reads {known}")
        self._known, self._entries = _ARCHITECTURES[name], Entries(container, f"{name}.")
        self._entries.check_known(_READ | _IDLE | self._known.read, _FIXED)
        self.sizes = self._sizes()
        self._has_biases = any(f"blk.0.{name}" in self._tensors for name in self._known.biases)

    def _sizes(self) -> dict[str, int]:
        whole = self._entries.integer
        width, heads, layers = whole("embedding_length"), whole("attention.head_count"), whole("block_count")
        groups = whole("attention.head_count_kv", heads)
        head = whole("attention.key_length", width // heads)
        sizes = {"width": width, "heads": heads, "layers": layers, "groups": groups, "head": head}
        sizes |= {"inner": whole("feed_forward_length"), "queries": heads * head, "keys": groups * head}
        rows = self._tensors[EMBEDDINGS].shape if EMBEDDINGS in self._tensors else ()
        sizes["tokens"] = whole("vocab_size", rows[0] if rows else 0)
        for name in ("attention.value_length", "rope.dimension_count"):
            default = width // heads if name == "attention.value_length" else head
            if (found := whole(name, default)) != head:
                raise unsupported(self._path, f"has {name} = {found} where a head has {head} numbers")
        if layers > _LAYERS_MAX or head % 2 or heads % groups:
            raise unsupported(self._path, f"has {layers} layers, {heads} heads in {groups} groups of {head} numbers")
        return sizes

    def config(self, factors: Array | None) -> dict[str, Any]:
        """Write transformers' config.json.

        Args:
            factors: the tensor `ROPE_FACTORS`, float32 [half of a head]; None where the file has none.
        """
        known, sizes = self._known, self.sizes
        biases = {known.biases_setting: self._has_biases} if known.biases_setting else {}
        return {
            "architectures": [known.model],
            "model_type": known.model_type,
            "dtype": "float32",
            "hidden_act": "silu",
            "hidden_size": sizes["width"],
            "intermediate_size": sizes["inner"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"],
            "num_key_value_heads": sizes["groups"],
            "head_dim": sizes["head"],
            "vocab_size": sizes["tokens"],
            "max_position_embeddings": self._entries.integer("context_length"),
            "rms_norm_eps": self._entries.real("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._entries.real("rope.freq_base", 10_000.0),
            "rope_scaling": self._rope_scaling(factors),
            "tie_word_embeddings": HEAD not in self._tensors,
            **biases,
            **known.settings(self._entries, sizes),
        }

    def _rope_scaling(self, factors: Array | None) -> dict[str, Any] | None:
        kind = self._entries.text("rope.scaling.type", "linear")
        factor = self._entries.real("rope.scaling.factor", self._entries.real("rope.scale_linear", 1.0)) or 1.0
        if kind not in ("none", "linear"):
            raise unsupported(self._path, f"scales its rotary positions by {kind}")
        linear = {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1.0 else None
        if factors is None or np.all(factors == 1.0):
            return linear
        is_like_llama = self._known.model_type == "llama" and factors.shape == (self.sizes["head"] // 2,)
        if is_like_llama and linear is None and factors.max() > 1:
            scaling = _LLAMA3_ROPE | {"factor": float(factors.max())}
            if np.allclose(factors, self._llama3_factors(scaling), rtol=_TOLERANCE, atol=0.0):
                return scaling
        raise unsupported(self._path, f"scales its rotary positions by a tensor, {ROPE_FACTORS}, as Llama 3 doesn't")

    def _llama3_factors(self, scaling: Mapping[str, Any]) -> Array:
        """Compute the divisors of the frequencies for a setting of Llama 3's.

        Source: transformers 4.57 `_compute_llama3_parameters`.
        """
        half = np.arange(0, self.sizes["head"], 2) / self.sizes["head"]
        lengths = 2 * np.pi * self._entries.real("rope.freq_base", 10_000.0) ** half
        factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] / lengths
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return np.asarray(1 / ((1 - smooth) / factor + smooth))

    def weights(self) -> dict[str, Weight]:
        """Map each tensor of the file to its place in transformers.

        Raises:
            UsageError: `model-unsupported`, for a tensor without a place; `model-unreadable`, for a missing one or one
                of another shape.
        """
        expected = self._expected()
        if missing := sorted(expected.keys() - self._tensors.keys()):
            raise unreadable(self._path, f"has no tensor {missing[0]!r}, and lacks {len(missing)} in all")
        if unknown := sorted(self._tensors.keys() - expected.keys() - {ROPE_FACTORS}):
            raise unsupported(self._path, f"has the tensor {unknown[0]!r}, and {len(unknown)} without a place in all")
        for name, (_, shape) in expected.items():
            sizes, found = tuple(self.sizes[it] for it in shape), self._tensors[name].shape
            if found != sizes:
                raise unreadable(self._path, f"has the tensor {name!r} with the shape {list(found)}, not {list(sizes)}")
        return {name: self._weight(name, theirs) for name, (theirs, _) in expected.items()}

    def _expected(self) -> _Names:
        found: _Names = {
            EMBEDDINGS: ("model.embed_tokens.weight", ("tokens", "width")),
            "output_norm.weight": ("model.norm.weight", ("width",)),
        }
        if HEAD in self._tensors:
            found[HEAD] = ("lm_head.weight", ("tokens", "width"))
        block = {**self._known.block, **(self._known.biases if self._has_biases else {})}
        for layer in range(self.sizes["layers"]):
            for name, (theirs, shape) in block.items():
                found[f"blk.{layer}.{name}"] = (f"model.layers.{layer}.{theirs}", shape)
        return found

    def _weight(self, name: str, theirs: str) -> Weight:
        inside = _BLOCK.fullmatch(name)
        part = (inside[2] if inside else name).partition(".")[0]
        rotated = {"attn_q": self.sizes["heads"], "attn_k": self.sizes["groups"]} if self._known.interleaved else {}
        is_norm = part.endswith("norm")
        return Weight(name=theirs, heads=rotated.get(part, 0), offset=self._known.norm_offset if is_norm else 0.0)

"""Language models as ONNX with onnxruntime's own attention, which writes keys and values behind the earlier ones.

transformers lets a caller replace the attention of any model by a function (`AttentionInterface`). Here this function
emits one GroupQueryAttention, so the graph has no mask, no copy of the cache and no repeated keys. Rotations and root
mean square norms become one operator each. All else stays as transformers writes it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx
import torch
import transformers

from edgeml.exporters import onnx_fusion, onnx_reshapes
from edgeml.exporters.huggingface import one_operator
from edgeml_core.errors import UsageError
from edgeml_core.processing import INPUT_IDS, LAST_TOKEN, LOGITS_AT, POSITIONS, TOKENS_SO_FAR

#: The oldest opset with rotations and root mean square norms.
OPSET: Final = 23
#: The inputs besides the cache, in order.
COUNTED: Final = (INPUT_IDS, POSITIONS, LAST_TOKEN, TOKENS_SO_FAR, LOGITS_AT)
_NAME: Final = "edgeml_in_place"
_ATTENTION: Final = "com.microsoft::GroupQueryAttention"
#: The function of transformers' modules that rotates queries and keys.
_ROTATE: Final = "apply_rotary_pos_emb"
#: Rows, tokens, room in the cache and wanted logits of the example; no two are the same, so none is taken for another.
_ROWS, _TOKENS, _ROOM, _WANTED = 2, 13, 7, 3
_TOLERANCE: Final = 1e-5
#: Settings that transformers hands to an attention, and that are read here or change nothing.
_HARMLESS: Final = frozenset(
    {"scaling", "sliding_window", "softcap", "is_causal", "output_attentions", "output_hidden_states"}
    | {"position_ids", "use_cache", "cache_position", "position_embeddings", "logits_to_keep"}
)
_Pair = tuple[torch.Tensor, torch.Tensor]


def fits(pretrained: Any, layers: int) -> bool:  # noqa: ANN401 -- transformers has no types here
    """Whether GroupQueryAttention computes what the attention of each layer does, seen in a run of the model."""
    is_replaceable = getattr(pretrained, "_supports_attention_backend", False)
    if not is_replaceable or POSITIONS not in inspect.signature(pretrained.forward).parameters:
        return False
    seen: dict[int, bool] = {}

    def seeing(module: Any, *tensors: torch.Tensor, **options: Any) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        seen[module.layer_idx] = _lacks(*tensors, **options) is None
        computed, _ = transformers.integrations.sdpa_attention.sdpa_attention_forward(module, *tensors, **options)
        return computed, None

    with _attention(pretrained, seeing), torch.inference_mode():
        pretrained(**_prompt(), use_cache=True)
    return sorted(seen) == list(range(layers)) and all(seen.values())


def convert(
    pretrained: Any,  # noqa: ANN401 -- as above
    past: Sequence[str],
    shapes: Sequence[Sequence[int]],
    path: Path,
    *,
    tokens_max: int,
) -> None:
    """Write a language model as ONNX.

    Args:
        pretrained: transformers' model; it is the same after that.
        past: names of the cache's inputs: key and value of each layer.
        shapes: their numbers of heads and sizes of a head.
        path: the new file; its weights lie beside it, since they may exceed the 2 GB of a file.
        tokens_max: of a prompt and its answer.

    Raises:
        UsageError: `model-unsupported`, when its attention has a part that GroupQueryAttention lacks.
    """
    free = torch.export.Dim.DYNAMIC
    example = (
        *_prompt().values(),
        torch.full((_ROWS,), _TOKENS - 1, dtype=torch.int32),
        torch.tensor([_TOKENS], dtype=torch.int32),
        torch.arange(_WANTED),
        *(torch.zeros(_ROWS, heads, _ROOM, size) for heads, size in shapes),
    )
    rows_and_tokens = {0: free, 1: free}
    counted: tuple[dict[int, Any], ...] = (rows_and_tokens, rows_and_tokens, {0: free}, {}, {0: free})
    with _rewritten(pretrained), torch.inference_mode():
        torch.onnx.export(
            _InPlace(pretrained).eval(),
            example,
            path,
            input_names=[*COUNTED, *past],
            output_names=["logits", *(name.replace("past_key_values", "present") for name in past)],
            dynamic_shapes=(*counted, tuple({0: free, 2: free} for _ in past)),
            opset_version=OPSET,
            external_data=True,
            verbose=False,
            dynamo=True,
        )
    model = onnx.load(path)
    onnx_reshapes.fold(model.graph)
    onnx_fusion.fuse(model.graph, tokens_max)
    path.with_name(f"{path.name}.data").unlink()
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.weights")


def _prompt() -> dict[str, torch.Tensor]:
    """Make the inputs of one run: ids and their positions."""
    positions = torch.arange(_TOKENS).repeat(_ROWS, 1)
    return {INPUT_IDS: torch.ones_like(positions), POSITIONS: positions}


@dataclass
class _Step:
    """One forward pass while it is captured: the inputs and outputs of each layer's attention."""

    past: list[_Pair]
    last_token: torch.Tensor
    so_far: torch.Tensor
    present: dict[int, _Pair] = field(default_factory=dict)
    #: By cosines, which all layers share: the halves that RotaryEmbedding takes.
    halves: dict[torch.Tensor, _Pair] = field(default_factory=dict)


_step: list[_Step] = []


class _InPlace(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, pretrained: Any) -> None:  # noqa: ANN401 -- as above
        super().__init__()
        self.pretrained = pretrained
        self._limits = "logits_to_keep" in inspect.signature(pretrained.forward).parameters

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        last_token: torch.Tensor,
        so_far: torch.Tensor,
        logits_at: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        step = _Step(list(zip(past[::2], past[1::2], strict=True)), last_token, so_far)
        _step.append(step)
        try:
            limit = {"logits_to_keep": logits_at} if self._limits else {}
            outputs = self.pretrained(
                input_ids=ids, position_ids=positions, past_key_values=_NewOnly(), use_cache=True, **limit
            )
        finally:
            _step.pop()
        logits = outputs.logits if self._limits else outputs.logits[:, logits_at]
        return logits, *(tensor for _, pair in sorted(step.present.items()) for tensor in pair)


class _NewOnly(transformers.Cache):  # type: ignore[misc] # transformers is not followed
    """A cache that hands new keys and values on: GroupQueryAttention joins them to the earlier ones."""

    is_compileable = False
    is_sliding: Final = ()

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object) -> _Pair:
        return keys, values

    def get_seq_length(self, *_: object) -> int:
        return 0


def _attend(  # noqa: PLR0917 -- transformers' interface
    module: Any,  # noqa: ANN401 -- as above
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **further: object,
) -> tuple[torch.Tensor, None]:
    """Emit one GroupQueryAttention in place of the attention of a layer.

    Args:
        module: the layer's attention.
        query: [rows, heads, tokens, size].
        key: [rows, heads of keys and values, tokens, size].
        value: the same.
        attention_mask: none: the operator's own is causal.
        scaling: of the scores.
        sliding_window: tokens that each one sees.
        softcap: of the scores.
        dropout: none in evaluation.
        further: what else an architecture gives.

    Returns:
        [rows, tokens, heads, size].
    """
    if (lack := _lacks(query, key, value, attention_mask, dropout=dropout, **further)) is not None:
        hint = "export a Llama, Qwen, Mistral, Gemma, Phi, GPT-2, GPT-NeoX or OPT type of model"
        raise UsageError("model-unsupported", f"can't generate text with this model: its attention {lack}", hint)
    step, layer = _step[-1], module.layer_idx
    rows, heads, tokens, size = query.shape
    scale = scaling if scaling is not None else getattr(module, "scaling", None) or size**-0.5
    attributes: dict[str, int | float] = {"num_heads": heads, "kv_num_heads": key.shape[1], "scale": float(scale)}
    if sliding_window:
        attributes["local_window_size"] = int(sliding_window)
    if softcap:
        attributes["softcap"] = float(softcap)
    past_key, past_value = step.past[layer]
    output, *present = torch.onnx.ops.symbolic_multi_out(
        _ATTENTION,
        (_joined(query), _joined(key), _joined(value), past_key, past_value, step.last_token, step.so_far),
        attributes,
        dtypes=(query.dtype,) * 3,
        shapes=((rows, tokens, heads * size), past_key.shape, past_value.shape),
        version=1,
    )
    step.present[layer] = present[0], present[1]
    return output.reshape(rows, tokens, heads, size), None


def _lacks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    **further: object,
) -> str | None:
    """Return what GroupQueryAttention lacks for such an attention; None if nothing."""
    if unknown := sorted(name for name, given in further.items() if given is not None and name not in _HARMLESS):
        return f"takes {', '.join(unknown)}"
    if attention_mask is not None or dropout:
        return "takes a mask or a dropout of its own"
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        return f"has queries, keys and values of different sizes {query.shape[-1]}, {key.shape[-1]}, {value.shape[-1]}"
    return None


def _joined(tensor: torch.Tensor) -> torch.Tensor:
    """[rows, heads, tokens, size] -> [rows, tokens, heads * size]."""
    rows, heads, tokens, size = tensor.shape
    return tensor.transpose(1, 2).reshape(rows, tokens, heads * size)


def _rotate(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> _Pair:
    """Emit one RotaryEmbedding each for queries and keys, [rows, heads, tokens, size]."""
    return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotated(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    rows, heads, tokens, size = tensor.shape
    shared = _step[-1].halves
    halves = shared.get(cos) or shared.setdefault(cos, _halves(cos, sin))
    # On [rows, tokens, heads * size], as a matrix product gives it and the attention takes it.
    output = torch.onnx.ops.symbolic(
        "RotaryEmbedding",
        (_joined(tensor), *halves),
        {"num_heads": heads, "rotary_embedding_dim": _turned(size, cos)},
        dtype=tensor.dtype,
        shape=(rows, tokens, heads * size),
    )
    return output.reshape(rows, tokens, heads, size).transpose(1, 2)


def _halves(cos: torch.Tensor, sin: torch.Tensor) -> _Pair:
    """The operator takes each angle once; transformers repeats them."""
    half = cos.shape[-1] // 2
    return cos[..., :half].contiguous(), sin[..., :half].contiguous()


def _turned(size: int, cos: torch.Tensor) -> int:
    """Numbers of a head that turn; 0 stands for all."""
    return 0 if cos.shape[-1] == size else cos.shape[-1]


def _computed(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Compute as the operator does, by torch's own form of it."""
    part = _turned(tensor.shape[-1], cos)
    return torch.onnx.ops.rotary_embedding(tensor, *_halves(cos, sin), rotary_embedding_dim=part)


def _rotating(pretrained: Any) -> Any | None:  # noqa: ANN401 -- as above
    """Return the module of transformers whose rotation computes as `_rotate`, seen in a run of the model; else None."""
    modeling = sys.modules[type(pretrained).__module__]
    original: Any = getattr(modeling, _ROTATE, None)
    same: list[bool] = []

    def compared(*given: Any, **options: Any) -> _Pair:  # noqa: ANN401 -- as above
        expected: _Pair = original(*given, **options)
        try:
            inspect.signature(_rotate).bind(*given, **options)
            found = (_computed(it, *given[2:]) for it in given[:2])
            same.extend(map(partial(torch.allclose, rtol=_TOLERANCE, atol=_TOLERANCE), found, expected))
        except Exception:  # noqa: BLE001 -- another rotation, with other inputs
            same.append(False)
        return expected

    if original is None:
        return None
    setattr(modeling, _ROTATE, compared)
    try:
        with torch.inference_mode():
            pretrained(**_prompt())
    finally:
        setattr(modeling, _ROTATE, original)
    return modeling if same and all(same) else None


@contextmanager
def _attention(pretrained: Any, function: Callable[..., Any]) -> Iterator[None]:  # noqa: ANN401 -- as above
    """Let a model attend by a function of ours. It is given no mask, and a model without this interface ignores it."""
    before = pretrained.config._attn_implementation  # noqa: SLF001 -- transformers has no other way to read it
    transformers.AttentionInterface.register(_NAME, function)
    pretrained.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        pretrained.set_attn_implementation(before)


@contextmanager
def _rewritten(pretrained: Any) -> Iterator[None]:  # noqa: ANN401 -- as above
    """Rewrite a model for the capture, and undo it."""
    modeling = _rotating(pretrained)
    with _attention(pretrained, _attend), ExitStack() as undo:
        if modeling is not None:
            undo.callback(setattr, modeling, _ROTATE, getattr(modeling, _ROTATE))
            setattr(modeling, _ROTATE, _rotate)
        for name, part in list(pretrained.named_modules()):
            if (simpler := one_operator.simpler(part)) is not None:
                parent, _, leaf = name.rpartition(".")
                owner = pretrained.get_submodule(parent)
                undo.callback(setattr, owner, leaf, part)
                setattr(owner, leaf, simpler)
        yield

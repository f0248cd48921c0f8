"""Tiny language models as GGUF files, with random weights and a vocabulary of bytes and a few words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from tokenizers import pre_tokenizers

SIZES: Final = {"width": 64, "inner": 96, "heads": 4, "groups": 2, "head": 16, "layers": 2}
CONTEXT: Final = 256
CHAT: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: By architecture: further entries.
FURTHER: Final[dict[str, dict[str, Any]]] = {
    "granite": {"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 2.0},
    "gemma2": {"attention.sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0},
    "gemma3": {"attention.sliding_window": 8},
}
#: Left and right of each merge of the byte-level vocabulary, in order; "\u0120" stands for a space.
MERGES: Final = ("t h", "th e", "\u0120 p", "u m", "\u0120p um", "\u0120pum p", "\u0120 the", "1 2", "12 3", "123 4")
#: What llama.cpp calls tokens of the types.
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
SPECIAL: Final = {"<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<tool>": USER, "</s>": NORMAL}
#: Pieces of the SentencePiece vocabulary, the most frequent first.
PIECES: Final = ("\u2581t", "he", "\u2581the", "in", "pu", "mp", "pump", "\u2581pump")
#: Lengths of the runs of spaces, which share a score.
RUNS: Final = (2, 3, 4, 8)


def write(
    path: Path,
    *,
    architecture: str = "llama",
    kind: str = "F32",
    entries: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    without: str = "",
    stored: Mapping[str, tuple[str, np.ndarray]] | None = None,
    has_head: bool = False,
    **sizes: int,
) -> Path:
    """Write a file.

    Args:
        path: the new file.
        architecture: llama, granite, qwen2, qwen3, gemma2 or gemma3.
        kind: of the tensors with two axes.
        entries: of the metadata, by their whole keys; None takes one away.
        vocabulary: entries below `tokenizer.ggml.`, `byte_level()` where none is given.
        without: a tensor that is left out.
        stored: tensors as they are, with their kinds; others than a model has, too.
        has_head: whether the last product has weights of its own.
        sizes: those that differ from `SIZES`.
    """
    found = SIZES | sizes
    words = {f"tokenizer.ggml.{key}": value for key, value in (vocabulary or byte_level()).items()}
    metadata = {**_entries(architecture, found), **words, "tokenizer.chat_template": CHAT, **(entries or {})}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value is not None and key != "general.architecture":
            _add(writer, key, value)
    chance, count = np.random.default_rng(0), len(metadata["tokenizer.ggml.tokens"])
    head = [("output.weight", (count, found["width"]))] if has_head else []
    for name, (its_kind, values) in (stored or {}).items():
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[its_kind])
    for name, shape in [*_tensors(architecture, found, count), *head]:
        values = chance.normal(1.0 if "norm" in name else 0.0, 0.3, shape).astype(np.float32)
        if name == without or name in (stored or {}):
            continue
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            its = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(values, its), raw_dtype=its)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(pre: str = "qwen2") -> dict[str, Any]:
    """A vocabulary of all bytes, the results of `MERGES` and `SPECIAL`."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *merged, *SPECIAL]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [SPECIAL.get(token, NORMAL) for token in tokens],
        "merges": list(MERGES),
        "bos_token_id": tokens.index("<|im_start|>"),
        "eos_token_id": tokens.index("<|im_end|>"),
    }


def sentencepiece() -> dict[str, Any]:
    """A vocabulary of bytes, letters, `PIECES` and runs of spaces, which share one score."""
    letters = sorted({*"".join(PIECES), *"abcdefghijklmnopqrstuvwxyz ."} - {" "})
    runs = ["\u2581" * count for count in RUNS]
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    by_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *by_byte, *runs, *PIECES, *letters]
    types = [*special.values(), *[BYTE] * 256, *[NORMAL] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-1e9] * len(runs) + [-float(at) for at in range(len(PIECES) + len(letters))]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores, **ids}


def gemma_like() -> dict[str, Any]:
    """SentencePiece's without a space before texts, and with runs of spaces and lines found before all merges."""
    found = sentencepiece()
    run_tokens = {"\u2581" * count: " " * count for count in RUNS}
    tokens = [run_tokens.get(token, token) for token in found["tokens"]]
    types = [
        USER if token in run_tokens.values() else its for token, its in zip(tokens, found["token_type"], strict=True)
    ]
    further = ["\n\n", "\n\n\n", "<b>", "</b>"]
    return {
        **found,
        "tokens": [*tokens, *further],
        "token_type": [*types, *[USER] * len(further)],
        "scores": [*found["scores"], *[-1000.0] * len(further)],
        "add_space_prefix": False,
    }


def _entries(architecture: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    own: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": sizes["width"],
        "feed_forward_length": sizes["inner"],
        "block_count": sizes["layers"],
        "attention.head_count": sizes["heads"],
        "attention.head_count_kv": sizes["groups"],
        "attention.key_length": sizes["head"],
        "attention.value_length": sizes["head"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10_000.0,
    }
    own |= FURTHER.get(architecture, {})
    return {f"{architecture}.{key}": value for key, value in own.items()}


def _tensors(architecture: str, sizes: Mapping[str, int], tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, head = sizes["width"], sizes["inner"], sizes["head"]
    queries, keys = sizes["heads"] * head, sizes["groups"] * head
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (queries, width),
        "attn_k.weight": (keys, width),
        "attn_v.weight": (keys, width),
        "attn_output.weight": (width, queries),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (inner, width),
        "ffn_up.weight": (inner, width),
        "ffn_down.weight": (width, inner),
    }
    if architecture == "qwen2":
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if architecture in ("qwen3", "gemma3"):
        layer |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if architecture in ("gemma2", "gemma3"):
        layer |= {"post_attention_norm.weight": (width,), "post_ffw_norm.weight": (width,)}
    yield "token_embd.weight", (tokens, width)
    yield "output_norm.weight", (width,)
    for number, (name, shape) in itertools.product(range(sizes["layers"]), layer.items()):
        yield f"blk.{number}.{name}", shape


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)

"""GGUF files, judged by llama.cpp in an environment of its own: it writes the same tokens, and has the same of texts.

By day its answers are those that it gave when they were recorded; each night it is asked again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

import edgeml
from edgeml.exporters.gguf import container, folder, tensors
from edgeml.oracle import hard_items, pipelines
from edgeml.oracle.protocol import RawItem
from support import cache, tiny_chat, tiny_gguf

#: What llama.cpp's environment installs: its server as a Python module, without dependencies.
INSTALLED: Final = "xllamacpp==2026.10.11549"
#: Token ids that are written on, and how many are written.
PROMPTS: Final = ([41], [7, 70, 200, 5, 99, 31, 120, 3], [number * 37 % 250 for number in range(40)])
WRITTEN: Final = 24
#: llama.cpp writes on without them: it ends an answer at each, where a vocabulary has it.
ENDS: Final = ("<|im_end|>", "</s>")
#: Embeddings so small that the layers decide on the next token, though the embeddings are the last product, too.
FAINT: Final = {
    "token_embd.weight": (
        "F32",
        np.random.default_rng(1).normal(0, 0.02, (len(tiny_gguf.byte_level()["tokens"]), 64)).astype(np.float32),
    )
}
#: By name: how the file differs from a plain Llama's.
MODELS: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "llama with sentencepiece": {"vocabulary": tiny_gguf.sentencepiece()},
    "llama with linear scaling": {"entries": {"llama.rope.scaling.factor": 4.0}},
    "llama with wide heads": {"head": 32, "has_head": True},
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3", "head": 32},
    "granite": {"architecture": "granite"},
    "gemma2": {"architecture": "gemma2", "layers": 3, "stored": FAINT},
    "gemma3": {"architecture": "gemma3", "layers": 7, "has_head": True},
}
#: By kind of tensor: where the scales in fp16 stand in a block, and how many; the other bytes may be any.
SCALES: Final = {"Q2_K": (80, 2), "Q3_K": (108, 1), "Q6_K": (208, 1)} | dict.fromkeys(
    ("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)
)
PRE_TOKENIZERS: Final = ("gpt-2", "smollm", "starcoder", "refact", "llama-bpe", "llama3", "llama-v3", "qwen2")
VOCABULARIES: Final = {name: tiny_gguf.byte_level(name) for name in PRE_TOKENIZERS} | {
    "llama's": tiny_gguf.sentencepiece(),
    "gemma's": tiny_gguf.gemma_like(),
}
#: Texts with runs of spaces beside the oracle's. llama.cpp doesn't compose accents as Qwen's tokenizer does, and takes
#: its plain `</s>` for a control token: neither is among them.
TEXTS: Final = (
    *hard_items.TEXTS,
    *("a" + " " * count + "b" for count in range(1, 40)),
    *("don't I'LL 12345", "<tool>x", "<b>the  pump</b>\n\n\n\nin", "\n\n \n", "<s>the<s> pump", "<unk>  the"),
)
#: Names of transformers' weights, and llama.cpp's for them.
NAMES: Final = {
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
THEIRS: Final = re.compile("|".join(map(re.escape, NAMES)))
#: The tokens that llama.cpp wrote behind each prompt.
RECORDED: Final = {
    "llama": (
        "28 170 189 170 170 170 258 154 147 154 147 158 24 233 201 154 40 183 266 48 116 160 246 89",
        "29 119 29 119 230 226 232 29 204 147 204 234 1 160 133 258 183 140 213 77 245 154 258 183",
        "159 220 97 30 216 52 121 52 133 37 228 212 266 79 28 118 15 103 103 103 77 100 140 16",
    ),
    "qwen2": (
        "183 261 102 212 72 62 140 3 226 46 226 70 266 70 64 105 16 42 210 226 7 48 161 69",
        "226 50 38 137 29 64 133 64 64 228 91 84 29 46 3 102 3 195 50 105 161 89 226 70",
        "70 114 212 74 109 19 220 172 102 172 172 172 142 232 234 69 20 52 232 27 25 174 139 204",
    ),
    "qwen3": (
        "150 31 132 7 212 159 7 50 80 22 121 52 153 94 135 22 175 242 135 159 143 233 75 11",
        "7 7 7 172 8 163 205 128 28 30 183 62 142 128 55 147 249 50 114 147 249 7 198 226",
        "16 121 108 160 69 213 163 91 140 42 264 106 121 235 91 28 61 140 153 25 77 232 48 153",
    ),
    "gemma3": (
        "131 68 102 230 251 230 157 128 63 24 129 130 188 185 222 6 169 110 110 110 21 61 95 117",
        "172 152 243 183 187 152 137 135 152 243 235 204 32 11 128 90 27 148 106 152 177 11 126 126",
        "83 25 120 240 52 111 141 152 262 66 24 129 236 2 266 12 95 7 180 76 102 230 251 148",
    ),
}


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[Path]:
    """The Python of llama.cpp's environment."""
    with cache.kept("llama.cpp", _make, [Path(__file__)]) as place:
        yield place / "bin/python"


def _make(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", INSTALLED], check=True)


def asked(python: Path, file: Path, asks: Sequence[dict[str, Any]]) -> list[list[int]]:
    """llama.cpp's answers."""
    command = [python, "-P", Path(__file__).with_name("llama_cpp.py"), file]
    done = subprocess.run(command, input=json.dumps(asks), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def made(tmp_path: Path, **options: Any) -> tuple[Path, Path]:
    """A file, and the folder that edgeml writes of it."""
    path = tiny_gguf.write(tmp_path / "model.gguf", **options)
    folder.write(container.read(path), tmp_path / "written")
    return path, tmp_path / "written"


def continued(place: Path) -> list[list[int]]:
    """The tokens that transformers writes on greedily, without those that end an answer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = None
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    ends = [it for it in map(tokenizer.token_to_id, ENDS) if it is not None]
    options = {"max_new_tokens": WRITTEN, "do_sample": False, "pad_token_id": 0, "suppress_tokens": ends}
    given = [torch.tensor([ids]) for ids in PROMPTS]
    written = (model.generate(ids, attention_mask=torch.ones_like(ids), **options) for ids in given)
    return [both[0, ids.shape[1] :].tolist() for ids, both in zip(given, written, strict=True)]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3"])
def test_model_writes_as_llama_cpp_did(tmp_path: Path, name: str):
    """Each architecture, in fp32."""
    _, place = made(tmp_path, **MODELS[name])
    assert continued(place) == [[*map(int, it.split())] for it in RECORDED[name]]


def test_transformers_writes_behind_a_space_as_the_tokens_are(tmp_path: Path):
    """Its pipeline took the space before the first mark away, and so the mark. All logits are 0: it writes token 0."""
    _, place = made(tmp_path, stored={"output_norm.weight": ("F32", np.zeros(64, np.float32))})
    _, answer = pipelines.open_pipeline(place, "text-generation")
    assert answer(RawItem(text="a ", tokens=4)) == {"text": "!!!!"}


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize("name", MODELS)
def test_model_writes_as_llama_cpp(tmp_path: Path, llama_cpp: Path, name: str):
    """What was recorded is what it answers."""
    path, place = made(tmp_path, **MODELS[name])
    answered = asked(llama_cpp, path, [{"ids": ids, "count": WRITTEN} for ids in PROMPTS])
    assert continued(place) == answered
    recorded = [" ".join(map(str, it)) for it in answered]
    assert list(RECORDED.get(name, recorded)) == recorded
    assert len({token for tokens in answered for token in tokens}) > WRITTEN


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize("kind", tensors.KINDS)
def test_weights_of_each_kind_are_those_of_llama_cpp(tmp_path: Path, llama_cpp: Path, kind: str):
    """Random bytes as the embeddings, of which llama.cpp restores a row exactly; products would round their inputs."""
    sizes = {"width": 256, "head": 64, "has_head": True}
    stored = {"token_embd.weight": (kind, random_blocks(kind, len(tiny_gguf.byte_level()["tokens"]), 256))}
    path, place = made(tmp_path, **sizes, stored=stored)
    answered = asked(llama_cpp, path, [{"ids": ids, "count": WRITTEN} for ids in PROMPTS])
    assert continued(place) == answered
    assert len({token for tokens in answered for token in tokens}) > WRITTEN


def random_blocks(kind: str, rows: int, width: int) -> np.ndarray:
    """Blocks of random bytes with scales of a weight's size, uint8 [rows, bytes]; random numbers of a plain kind."""
    elements, size_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    chance = np.random.default_rng(0)
    if elements == 1:
        values = chance.normal(0, 0.3, (rows, width)).astype(np.float32)
        return gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    blocks = chance.integers(0, 256, (rows * width // elements, size_bytes)).astype(np.uint8)
    at, count = SCALES.get(kind, (0, 1))
    scales = chance.normal(0, 0.02, (len(blocks), count)).astype(np.float16)
    blocks[:, at : at + 2 * count] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize("name", VOCABULARIES)
def test_texts_have_the_tokens_of_llama_cpp(tmp_path: Path, llama_cpp: Path, name: str):
    """By each pre-tokenizer, and by SentencePiece as Llama and Gemma have it."""
    path, place = made(tmp_path, vocabulary=VOCABULARIES[name])
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    assert [tokenizer.encode(text).ids for text in TEXTS] == asked(llama_cpp, path, [{"text": it} for it in TEXTS])


@pytest.mark.nightly
@pytest.mark.network
def test_chat_model_in_q4_0_ships_in_4_bits_and_answers_as_llama_cpp(tmp_path: Path, llama_cpp: Path):
    """Its weights are those of the file. So coarse ones give some questions another answer that it has learnt."""
    path = trained(tmp_path)
    (bundle,) = edgeml.export(path, targets=["rpi5"], output=tmp_path / "out")
    assert bundle.card.recipe == "weight-only-4bit"
    assert bundle.card.parity.cosine > 0.99
    tokens = container.read(path).metadata["tokenizer.ggml.tokens"]
    for question in tiny_chat.FACTS:
        (answer,) = bundle.run({"messages": [{"role": "user", "content": question}], "temperature": 0})
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        (ids,) = asked(llama_cpp, path, [{"text": prompt}])
        (written,) = asked(llama_cpp, path, [{"ids": ids, "count": WRITTEN}])
        assert "".join(tokens[it] for it in written).replace("\u0120", " ").startswith(answer["text"])
        assert answer["text"] in tiny_chat.FACTS.values()


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_architecture_ships_in_fp32_with_the_answers_of_transformers(tmp_path: Path, architecture: str):
    """Gemma 2's scores are far above their cap, which transformers' default attention leaves out."""
    path = tiny_gguf.write(tmp_path / "model.gguf", **MODELS[architecture])
    (bundle,) = edgeml.export(path, targets=["x86-vnni"], quantize="none", output=tmp_path / "out")
    assert bundle.card.oracle
    assert bundle.card.parity.cosine > 0.9999


def trained(tmp_path: Path) -> Path:
    """A tiny Qwen 2 that answers a few questions, with its products in Q4_0."""
    transformers.set_seed(0)
    said = [*tiny_chat.FACTS, *tiny_chat.FACTS.values(), *tiny_chat.SENTENCES, *tiny_chat.SENTENCES.values()]
    tokenizer = tiny_chat.tokenizer_of(said, 360, tiny_chat.TEMPLATE, tiny_gguf.CONTEXT)
    sizes = tiny_gguf.SIZES
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=sizes["width"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["groups"],
        rope_theta=10_000.0,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen2ForCausalLM(config)
    tiny_chat.train(model, tokenizer, tiny_chat.lessons())
    weights = {THEIRS.sub(lambda it: NAMES[it[0]], name): it for name, it in model.state_dict().items()}
    stored = {name: quantized(it.numpy()) for name, it in weights.items()}
    return tiny_gguf.write(tmp_path / "chat.gguf", architecture="qwen2", vocabulary=words(tokenizer), stored=stored)


def quantized(values: np.ndarray) -> tuple[str, np.ndarray]:
    """A tensor as llama.cpp's tools store it."""
    kind = gguf.GGMLQuantizationType.Q4_0
    return ("F32", values) if values.ndim == 1 else (kind.name, gguf.quantize(values, kind))


def words(tokenizer: transformers.PreTrainedTokenizerFast) -> dict[str, Any]:
    """A tokenizer of transformers as entries of a file."""
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda it: it[1])]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    types = [tiny_gguf.CONTROL if it in tokenizer.all_special_tokens else tiny_gguf.NORMAL for it in tokens]
    pairs = [" ".join(it) for it in merges]
    ids = {"eos_token_id": tokenizer.eos_token_id, "padding_token_id": tokenizer.pad_token_id}
    return {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types, "merges": pairs, **ids}

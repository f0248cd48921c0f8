"""GGUF files as folders of Hugging Face's: what is read, and the refusals. tests/oracle/test_gguf.py asks llama.cpp."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from edgeml.exporters.gguf import container, folder
from edgeml_core.errors import UsageError
from support import tiny_gguf

TOKENS = len(tiny_gguf.byte_level()["tokens"])
CUT = 40


def written(tmp_path: Path, **options: Any) -> Path:
    """The folder of a file."""
    path = tiny_gguf.write(tmp_path / "model.gguf", **options)
    folder.write(container.read(path), tmp_path / "written")
    return tmp_path / "written"


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON."""
    return json.loads(path.read_bytes())


def tokens(made: Path, text: str) -> list[str]:
    """A text's tokens, with those that begin prompts."""
    return Tokenizer.from_file(str(made / "tokenizer.json")).encode(text).tokens


def refused(tmp_path: Path, **options: Any) -> UsageError:
    """The refusal of a file."""
    with pytest.raises(UsageError) as caught:
        written(tmp_path, **options)
    assert str(tmp_path / "model.gguf") in caught.value.message
    return caught.value


def test_sizes_and_special_tokens_become_configurations(tmp_path: Path):
    """Under transformers' names; every number that it would else take from its defaults is there."""
    made = written(tmp_path)
    config = read_json(made / "config.json")
    ends = [tiny_gguf.byte_level()["eos_token_id"]]
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (64, 96, 2)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
    assert (config["vocab_size"], config["max_position_embeddings"], config["rope_theta"]) == (TOKENS, 256, 10_000)
    assert (config["tie_word_embeddings"], config["attention_bias"], config["rope_scaling"]) == (True, False, None)
    assert config["rms_norm_eps"] == pytest.approx(1e-6)
    assert read_json(made / "generation_config.json")["eos_token_id"] == ends
    settings = read_json(made / "tokenizer_config.json")
    assert (settings["chat_template"], settings["eos_token"]) == (tiny_gguf.CHAT, "<|im_end|>")


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_weights_are_restored_as_the_library_of_the_format_does(tmp_path: Path, kind: str):
    """A value's product of step and scale fits fp32, so nothing is rounded."""
    weights = load_file(written(tmp_path, kind=kind, architecture="qwen2") / "model.safetensors")
    stored = {it.name: it for it in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    tensor = stored["blk.1.ffn_down.weight"]
    expected = gguf.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_array_equal(weights["model.layers.1.mlp.down_proj.weight"], expected)
    assert {it.dtype for it in weights.values()} == {np.dtype(np.float32)}


def test_rotated_halves_of_llama_are_put_apart_and_of_qwen_left(tmp_path: Path):
    """llama.cpp turns neighbours of Llama's heads, and halves of the others'."""
    found = {}
    for architecture in ("llama", "qwen2"):
        (tmp_path / architecture).mkdir()
        weights = load_file(written(tmp_path / architecture, architecture=architecture) / "model.safetensors")
        found[architecture] = weights["model.layers.0.self_attn.q_proj.weight"]
    stored = {it.name: it for it in gguf.GGUFReader(tmp_path / "llama" / "model.gguf").tensors}
    own = stored["blk.0.attn_q.weight"].data
    np.testing.assert_array_equal(found["llama"][:16], np.concatenate([own[0:16:2], own[1:16:2]]))
    np.testing.assert_array_equal(found["qwen2"], own)


def test_layers_of_gemma_have_windows_and_norms_around_zero(tmp_path: Path):
    """Five of six layers have a window; the file's norms are around one."""
    made = written(tmp_path, architecture="gemma3", layers=7)
    config = read_json(made / "config.json")
    assert [it == "full_attention" for it in config["layer_types"]] == [False] * 5 + [True, False]
    assert (config["sliding_window"], config["query_pre_attn_scalar"], config["rope_local_base_freq"]) == (
        8,
        16,
        10_000,
    )
    assert abs(load_file(made / "model.safetensors")["model.norm.weight"].mean()) < 0.2


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["\u0120pump", "\u0120", "1234"]),
        ("smollm", ["\u0120pump", "\u0120", "1", "2", "3", "4"]),
        ("qwen2", ["\u0120pump", "\u0120", "1", "2", "3", "4"]),
        ("llama-bpe", ["<|im_start|>", "\u0120pump", "\u0120", "123", "4"]),
    ],
)
def test_pre_tokenizers_differ_in_digits_and_in_the_beginning(tmp_path: Path, pre: str, expected: list[str]):
    """The file has only their name."""
    assert tokens(written(tmp_path, vocabulary=tiny_gguf.byte_level(pre)), " pump 1234") == expected


def test_control_tokens_are_found_in_texts_and_others_of_the_same_look_are_not(tmp_path: Path):
    """`</s>` is plain text here, as in Qwen's vocabulary."""
    found = tokens(written(tmp_path), "<|im_end|><tool></s>")
    assert found[:2] == ["<|im_end|>", "<tool>"]
    assert "</s>" not in found


@pytest.mark.parametrize(("prefix", "first"), [(True, ["\u2581the"]), (False, ["t", "he"])])
def test_sentencepiece_merges_by_score_and_falls_back_to_bytes(tmp_path: Path, prefix: bool, first: list[str]):
    """Runs of spaces, which share a score, grow from the left."""
    options = {"tokenizer.ggml.add_space_prefix": prefix}
    made = written(tmp_path, vocabulary=tiny_gguf.sentencepiece(), entries=options)
    assert tokens(made, "the pump") == ["<s>", *first, "\u2581pump"]
    assert tokens(made, "\u00e4")[-2:] == ["<0xC3>", "<0xA4>"]
    assert tokens(made, "a" + " " * 7 + "a")[-3:] == ["\u2581" * 4, "\u2581" * 3, "a"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"entries": {"general.type": "adapter"}}, "model-unsupported", "is a LoRA adapter"),
        ({"entries": {"general.type": "mmproj"}}, "model-unsupported", "the projector of pictures"),
        ({"entries": {"split.count": 3}}, "model-unsupported", "one of several parts"),
        ({"entries": {"llama.pooling_type": 1}}, "model-unsupported", "llama.pooling_type"),
        ({"entries": {"llama.expert_count": 8}}, "model-unsupported", "llama.expert_count"),
        ({"entries": {"llama.logit_scale": 2.0}}, "model-unsupported", "llama.logit_scale"),
        ({"entries": {"llama.rope.scaling.type": "yarn"}}, "model-unsupported", "rotary positions by yarn"),
        ({"entries": {"llama.rope.dimension_count": 8}}, "model-unsupported", "rope.dimension_count = 8"),
        ({"entries": {"llama.attention.head_count": [4, 4]}}, "model-unsupported", "a list of 2 as"),
        ({"entries": {"llama.block_count": None}}, "model-unreadable", "has no llama.block_count"),
        ({"entries": {"llama.block_count": 3}}, "model-unreadable", "no tensor 'blk.2."),
        ({"entries": {"llama.block_count": 1}}, "model-unsupported", "the tensor 'blk.1."),
        ({"entries": {"llama.block_count": 50_000_000}}, "model-unsupported", "50000000 layers"),
        ({"entries": {"llama.feed_forward_length": 128}}, "model-unreadable", "with the shape [96, 64], not [128, 64]"),
        ({"without": "blk.1.ffn_up.weight"}, "model-unreadable", "no tensor 'blk.1.ffn_up.weight'"),
        ({"kind": "TQ1_0", "width": 256, "head": 64, "inner": 256}, "model-unsupported", "of the type TQ1_0"),
        ({"entries": {"tokenizer.ggml.pre": "default"}}, "model-unsupported", "the pre-tokenizer 'default'"),
        ({"entries": {"tokenizer.ggml.pre": None}}, "model-unsupported", "the pre-tokenizer None"),
        ({"entries": {"tokenizer.ggml.model": "t5"}}, "model-unsupported", "a tokenizer of the kind 't5'"),
        ({"entries": {"tokenizer.ggml.add_eos_token": True}}, "model-unsupported", "tokenizer.ggml.add_eos_token"),
        ({"entries": {"tokenizer.ggml.merges": ["q q"]}}, "model-unreadable", "the merge 'q q'"),
        ({"entries": {"tokenizer.ggml.eos_token_id": 9999}}, "model-unreadable", "tokenizer.ggml.eos_token_id"),
        ({"entries": {"tokenizer.ggml.token_type": [1]}}, "model-unreadable", "1 types for"),
    ],
    ids=lambda it: str(it)[:40],
)
def test_files_that_can_not_be_shown_to_be_read_right_are_refused(tmp_path: Path, options, code: str, words: str):
    """By name, before any weight is restored."""
    error = refused(tmp_path, **options)
    assert error.code == code
    assert words in error.message
    assert not (tmp_path / "written").exists()


def test_architectures_and_parts_are_refused_by_name(tmp_path: Path):
    """Llama 4's is another architecture; a part's file name is enough."""
    path = tiny_gguf.write(tmp_path / "whole.gguf")
    part = tmp_path / "model-00001-of-00003.gguf"
    part.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="several parts"):
        folder.write(container.read(part), tmp_path / "written")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0bloom"))
    with pytest.raises(UsageError, match="the architecture 'bloom'; edgeml reads llama"):
        folder.write(container.read(path), tmp_path / "written")


def test_rotary_factors_are_those_of_llama_3_or_refused(tmp_path: Path):
    """The file has a divisor for each frequency, transformers four numbers."""
    half = np.arange(8) / 8
    turns = 8192 / (2 * np.pi * 500_000.0**half)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    entries = {"llama.rope.freq_base": 500_000.0, "llama.context_length": 131_072}
    made = written(tmp_path, entries=entries, stored={"rope_freqs.weight": ("F32", factors)})
    scaling = read_json(made / "config.json")["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"], scaling["low_freq_factor"]) == ("llama3", 32, 1)
    for number, other in enumerate((factors * 1.1, factors[:5], factors * 0, factors * -1)):
        (tmp_path / str(number)).mkdir()
        error = refused(tmp_path / str(number), entries=entries, stored={"rope_freqs.weight": ("F32", other)})
        assert "rope_freqs.weight, as Llama 3 doesn't" in error.message


def test_linear_scaling_of_positions_is_kept(tmp_path: Path):
    """Without a type it is linear, too."""
    made = written(tmp_path, entries={"llama.rope.scaling.factor": 4.0})
    assert read_json(made / "config.json")["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


def test_file_cut_short_anywhere_is_unreadable(tmp_path: Path):
    """In its header, and in its weights."""
    data = tiny_gguf.write(tmp_path / "model.gguf").read_bytes()
    for number in range(CUT):
        (tmp_path / "model.gguf").write_bytes(data[: 1 + len(data) * number // CUT])
        with pytest.raises(UsageError) as caught:
            folder.write(container.read(tmp_path / "model.gguf"), tmp_path / "written")
        assert caught.value.code == "model-unreadable"
    assert "is cut short: it has" in caught.value.message


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (0, b"GGML", "is no GGUF file"),
        (4, b"\1\0\0\0", "version 1"),
        (4, b"\0\0\0\3", "big-endian"),
        (8, b"\xff" * 8, "tensors; 100000 is the limit"),
        (16, b"\xff" * 8, "entries of metadata"),
        (24, b"\xff" * 8, "bytes of a name"),
    ],
    ids=["magic", "version", "order", "tensors", "entries", "name"],
)
def test_hostile_headers_are_refused_before_memory_is_taken(tmp_path: Path, at: int, data: bytes, words: str):
    """Each number is compared with a limit or the file's size first."""
    path = tiny_gguf.write(tmp_path / "model.gguf")
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    with pytest.raises(UsageError, match=words) as caught:
        container.read(path)
    assert caught.value.code == "model-unreadable"


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path):
    """By the tensor's name."""
    broken = np.full((64, 96), np.nan, np.float32)
    error = refused(tmp_path, stored={"blk.0.ffn_down.weight": ("F32", broken)})
    assert error.code == "model-unreadable"
    assert "NaN or infinite: 'blk.0.ffn_down.weight'" in error.message


def test_file_without_the_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The host installs it only where it exports such files."""
    path = tiny_gguf.write(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError) as caught:
        folder.write(container.read(path), tmp_path / "written")
    assert caught.value.code == "extra-missing"
    assert "edgeml-deploy[export-gguf]" in caught.value.hint


def test_named_chat_templates_are_kept(tmp_path: Path):
    """As transformers names them."""
    made = written(tmp_path, entries={"tokenizer.chat_template.tool_use": "{{ tools }}"})
    templates = read_json(made / "tokenizer_config.json")["chat_template"]
    assert {it["name"]: it["template"] for it in templates} == {"default": tiny_gguf.CHAT, "tool_use": "{{ tools }}"}

"""The RAM estimate, and the gate on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeml import targets
from edgeml.check import memory
from edgeml.exporters.source import Built, Signature
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Format, TensorSpec
from edgeml_core.processing import Generation, PromptInput, TensorInput, TensorOutput, TextInput

SIGNATURE = Signature(inputs=(), outputs=(), preprocess=TensorInput(), postprocess=TensorOutput())
MB = 1_000_000


def built(folder: Path, recipe: str, size_bytes: int, file_format: Format = "onnx") -> Built:
    folder = folder / recipe
    folder.mkdir(exist_ok=True)
    with (folder / "model").open("wb") as model:
        model.truncate(size_bytes)
    return Built(file_format=file_format, recipe=recipe, folder=folder, model="model", signature=SIGNATURE)


def test_estimate_bytes_weight_only_counts_as_fp32(tmp_path: Path):
    """Weight-only saves bytes on disk, not in memory."""
    fp32 = built(tmp_path, "none", 100 * MB)
    dynamic = memory.estimate_bytes(built(tmp_path, "dynamic-s8", 25 * MB), fp32)
    assert dynamic == memory.RUNTIME_BYTES + 35 * MB
    for recipe, size_bytes in (("weight-only", 25 * MB), ("weight-only-fp16", 50 * MB)):
        assert memory.estimate_bytes(built(tmp_path, recipe, size_bytes), fp32) == memory.estimate_bytes(fp32, fp32)


def test_estimate_bytes_counts_weights_that_are_restored_to_fp32(tmp_path: Path):
    """A convolution's, beside the integer products of a dynamic recipe."""
    fp32 = built(tmp_path, "none", 100 * MB)
    products = built(tmp_path, "dynamic-s8", 25 * MB)
    beside = replace(products, restored_bytes=30 * MB)
    further = memory.estimate_bytes(beside, fp32) - memory.estimate_bytes(products, fp32)
    assert further == pytest.approx(30 * MB * memory.RAM_PER_BYTE, abs=1)


def test_estimate_bytes_litert_float_counts_a_packed_copy(tmp_path: Path):
    """XNNPACK packs them anew for each signature."""
    fp32 = built(tmp_path, "none", 100 * MB, "tflite")
    assert memory.estimate_bytes(fp32, fp32) == memory.RUNTIME_BYTES + 240 * MB


def test_estimate_bytes_litert_int8_counts_a_packed_copy_for_each_further_length(tmp_path: Path):
    """Three lengths of a text model pack their products three times; onnxruntime packs them once."""
    text = TextInput(tokenizer="tokenizer.json", max_length=256, pad_to=(32, 128, 256))
    fp32 = built(tmp_path, "none", 100 * MB, "tflite")
    int8 = replace(built(tmp_path, "dynamic", 25 * MB, "tflite"), signature=replace(SIGNATURE, preprocess=text))
    assert memory.estimate_bytes(int8, fp32) == memory.RUNTIME_BYTES + 75 * MB


def test_check_memory_too_large_for_the_board_fails(tmp_path: Path):
    """400 MB of weights don't fit into what a Zero 2 W can give; a Pi 4 takes them."""
    model = built(tmp_path, "dynamic-s8", 400 * MB)
    needed = memory.estimate_bytes(model, model)
    with pytest.raises(GateFailed, match="rpi-zero2w") as caught:
        memory.check_memory(needed, targets.load("rpi-zero2w"))
    assert caught.value.code == "gate-failed"
    memory.check_memory(needed, targets.load("rpi4"))
    with pytest.raises(GateFailed, match="--max-ram"):
        memory.check_memory(needed, targets.load("rpi4"), 30 * MB)


def writing(folder: Path, tokens: int) -> Built:
    """A language model of 25 MB, whose cache takes 8 KiB a token."""
    kept = tuple(TensorSpec(name=name, dtype="float32", shape=(1, 8, -1, 128)) for name in ("key", "value"))
    signature = Signature(
        inputs=kept,
        outputs=(),
        preprocess=PromptInput(tokenizer="tokenizer.json", max_length=tokens),
        postprocess=Generation(output="logits", stop_ids=(), past=("key", "value"), present=("key'", "value'")),
    )
    return replace(built(folder, "dynamic-s8", 25 * MB), signature=signature)


def test_estimate_bytes_counts_the_cache_of_a_whole_conversation(tmp_path: Path):
    """Keys and values of each token, in float32."""
    fp32 = built(tmp_path, "none", 100 * MB)
    kept = memory.PROMPT_BYTES + 8192 * 1000
    assert memory.estimate_bytes(writing(tmp_path, 1000), fp32) == memory.RUNTIME_BYTES + 35 * MB + kept


def test_fit_context_shortens_conversations_to_the_memory_of_the_board(tmp_path: Path):
    """The longest that fits in steps, with a note; where all fit, the model is as it was."""
    fp32, board = built(tmp_path, "none", 100 * MB), targets.load("rpi-zero2w")
    model = writing(tmp_path, 131_072)
    shorter = memory.fit_context(model, fp32, board)
    needed = memory.estimate_bytes(shorter, fp32)
    step = memory.CONTEXT_STEP * 8192
    assert needed <= board.memory.model_bytes < needed + step
    tokens = shorter.signature.preprocess.max_length
    assert shorter.notes[0].startswith(
        f"a conversation has at most {tokens} tokens; the original takes 131072, and rpi"
    )
    assert memory.fit_context(model, fp32, targets.load("rpi4")) is model
    bounded = memory.fit_context(model, fp32, targets.load("rpi4"), needed)
    assert bounded.signature.preprocess.max_length == tokens


def test_fit_context_leaves_a_conversation_of_some_length(tmp_path: Path):
    """A board that has no memory for it is refused by the gate, which names both figures."""
    fp32, board = built(tmp_path, "none", 2000 * MB), targets.load("rpi-zero2w")
    model = replace(writing(tmp_path, 1000), recipe="weight-only")
    shorter = memory.fit_context(model, fp32, board)
    assert shorter.signature.preprocess.max_length == memory.CONTEXT_MIN
    with pytest.raises(GateFailed, match="of RAM; rpi-zero2w gives it"):
        memory.check_memory(memory.estimate_bytes(shorter, fp32), board)

"""Qwen3-0.6B's shape: 28 layers of 1024, 16 heads of 128 that share 8 of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.figures import Outcome, Run
from language_parts import comparison
from language_parts.shapes import TINY, Shape

SHAPE: Final = Shape(
    title="Qwen3-0.6B shape",
    model_type="qwen3",
    sizes={
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
        "max_position_embeddings": 40960,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
    tiny=TINY,
)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the speeds, the memory and the ratios."""
    yield from comparison.figures(run, SHAPE)

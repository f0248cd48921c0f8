"""Qwen2.5-0.5B's shape: 24 layers of 896, 14 heads that share 2 of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.figures import Outcome, Run
from language_parts import comparison
from language_parts.shapes import TINY, Shape

SHAPE: Final = Shape(
    title="Qwen2.5-0.5B shape",
    model_type="qwen2",
    sizes={
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151_936,
        "max_position_embeddings": 32768,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
    tiny=TINY,
)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the speeds, the memory and the ratios."""
    yield from comparison.figures(run, SHAPE)

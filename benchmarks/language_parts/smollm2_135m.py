"""SmolLM2-135M's shape: 30 layers of 576, 9 heads that share 3 of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.figures import Outcome, Run
from language_parts import comparison
from language_parts.shapes import TINY, Shape

SHAPE: Final = Shape(
    title="SmolLM2-135M shape",
    model_type="llama",
    sizes={
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
    },
    tiny=TINY,
)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the speeds, the memory and the ratios."""
    yield from comparison.figures(run, SHAPE)

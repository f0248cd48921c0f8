"""DialoGPT-medium's shape, which is GPT-2 medium's: 24 layers of 1024, 16 heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.figures import Outcome, Run, least
from language_parts import comparison
from language_parts.contenders import OPTIMUM, PYTORCH
from language_parts.shapes import Shape

SHAPE: Final = Shape(
    title="DialoGPT-medium shape",
    model_type="gpt2",
    # `n_ctx` is what llama.cpp's converter reads.
    sizes={"n_embd": 1024, "n_layer": 24, "n_head": 16, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257},
    tiny={"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": 512},
    decode={"": least(60), PYTORCH: least(4), OPTIMUM: least(2)},
)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the speeds, the memory and the ratios."""
    yield from comparison.figures(run, SHAPE)

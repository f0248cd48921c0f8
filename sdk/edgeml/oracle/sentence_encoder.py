"""The oracle of a sentence-transformers folder: `SentenceTransformer.encode`, with the prompt that its files name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch

from edgeml.oracle.protocol import RawItem


def open_encoder(folder: Path) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load the encoder.

    Returns:
        The library with its version, and a function from an item to its answer.
    """
    settings = {"dtype": torch.float32, "use_safetensors": True}  # never a pickle
    encoder = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=settings
    )

    def answer(item: RawItem) -> dict[str, Any]:
        return {"embedding": encoder.encode([item.text])[0].tolist()}

    return f"sentence-transformers {sentence_transformers.__version__}", answer

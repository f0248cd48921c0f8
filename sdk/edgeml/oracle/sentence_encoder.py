"""The oracle of a sentence-transformers folder: `SentenceTransformer.encode`, `CrossEncoder.predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sentence_transformers
import torch

from edgeml.oracle.protocol import RawItem

_LIBRARY: Final = f"sentence-transformers {sentence_transformers.__version__}"
_SETTINGS: Final[dict[str, Any]] = {
    "device": "cpu",
    "local_files_only": True,
    "trust_remote_code": False,
    "model_kwargs": {"dtype": torch.float32, "use_safetensors": True},  # never a pickle
}


def open_encoder(folder: Path) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load the encoder.

    Returns:
        The library with its version, and a function from an item to its answer.
    """
    encoder = sentence_transformers.SentenceTransformer(str(folder), **_SETTINGS)

    def answer(item: RawItem) -> dict[str, Any]:
        return {"embedding": encoder.encode([item.text])[0].tolist()}

    return _LIBRARY, answer


def open_cross_encoder(folder: Path) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load the cross-encoder, which gives pairs a score for each of its labels: see `open_encoder`."""
    encoder = sentence_transformers.CrossEncoder(str(folder), **_SETTINGS)
    labels = encoder.config.id2label

    def answer(item: RawItem) -> dict[str, Any]:
        if item.text_pair is None:
            raise ValueError("a cross-encoder takes pairs")
        is_one = encoder.num_labels == 1
        scores = encoder.predict([(item.text, item.text_pair)], apply_softmax=not is_one)
        return {"labels": [{"label": labels[n], "score": it} for n, it in enumerate(scores.reshape(-1).tolist())]}

    return _LIBRARY, answer

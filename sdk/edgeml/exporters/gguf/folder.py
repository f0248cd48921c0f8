"""A GGUF file written as a folder of Hugging Face's, with its weights in fp32. `source` loads the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save_file

from edgeml.exporters.gguf import container, tensors, tokenizer
from edgeml.exporters.gguf.architectures import ROPE_FACTORS, Layout, Weight
from edgeml.exporters.gguf.container import Container, unreadable, unsupported
from edgeml.exporters.gguf.entries import Entries
from edgeml.exporters.huggingface import folder as folders
from edgeml_core.errors import UsageError

#: The end of the name of one part of a split file.
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf")
#: By the file's type, where it has one: what such a file is. A model's is `model`.
_OTHER_TYPES: Final = {
    "adapter": "a LoRA adapter",
    "mmproj": "the projector of pictures or sounds into a language model",
    "vocab": "a vocabulary without weights",
    "imatrix": "a matrix of importance, with which models are quantized",
    "dataset": "a data set",
}


def config(path: Path) -> dict[str, Any]:
    """Read a file as transformers' config.json; no matrix is restored.

    Raises:
        UsageError: as for `write`.
    """
    found = container.read(path)
    layout, _ = _laid_out(found)
    return _config(found, layout)


def write(found: Container, folder: Path) -> None:
    """Write the model as a folder that transformers loads.

    Args:
        found: the file.
        folder: is made.

    Raises:
        UsageError: `model-unreadable`, `model-unsupported`, or `extra-missing` without the `gguf` package.
    """
    layout, weights = _laid_out(found)
    settings = _config(found, layout)
    vocabulary = tokenizer.build(found, settings["max_position_embeddings"])
    if vocabulary.size != layout.sizes["tokens"]:
        raise unreadable(found.path, f"has {layout.sizes['tokens']} embeddings for {vocabulary.size} tokens")
    folder.mkdir(parents=True)
    vocabulary.tokenizer.save(str(folder / folders.TOKENIZER))
    ends = {"bos_token_id": vocabulary.begin, "eos_token_id": list(vocabulary.ends) or None}
    _write_json(folder / "config.json", settings | ends)
    _write_json(folder / "generation_config.json", ends)
    _write_json(folder / "tokenizer_config.json", vocabulary.settings)
    restored = {weight.name: weight.of(tensors.restore(found, name)) for name, weight in weights.items()}
    save_file(restored, folder / "model.safetensors", {"format": "pt"})


def _laid_out(found: Container) -> tuple[Layout, dict[str, Weight]]:
    _check_is_model(found)
    layout = Layout(found)
    tensors.check(found)
    return layout, layout.weights()


def _config(found: Container, layout: Layout) -> dict[str, Any]:
    return layout.config(tensors.restore(found, ROPE_FACTORS) if ROPE_FACTORS in found.tensors else None)


def _check_is_model(found: Container) -> None:
    """Refuse files of other kinds than whole models."""
    kind = Entries(found, "general.").text("type", "model")
    if kind != "model":
        raise unsupported(found.path, f"is {_OTHER_TYPES.get(kind, f'of the type {kind!r}')}, no model")
    count = Entries(found, "split.").integer("count", 1, least=0)
    if count > 1 or _PART.search(found.path.name):
        hint = "join the parts with llama.cpp: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf"
        raise UsageError("model-unsupported", f"{found.path} is one of several parts of a model", hint)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content))

"""The adapter to PEFT: a trained adapter and its base model become one folder of transformers.

Weights that neither of both has are left out of that folder, so its loader refuses them as it does for every folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from edgeml import peft_folder
from edgeml.exporters.huggingface import weights
from edgeml_core.errors import UsageError

#: Files beside the weights: the tokenizer's, the processor's and the chat template's.
_FILES: Final = ("*token*.json", "vocab.*", "merges.txt", "*processor_config.json", "chat_template.*", "spiece.model")
#: Files of sentence-transformers, which its `save` writes beside an adapter: the modules, and their settings.
_SENTENCE_FILES: Final = ("modules.json", "*sentence*.json", "*/config.json")
#: Characters of PEFT's own error in a message.
_REASON_MAX_CHARS: Final = 400


def merge(path: Path, automatic: Any, work: Path) -> Path:  # noqa: ANN401 -- transformers has no types here
    """Merge an adapter into its base model.

    Args:
        path: the adapter's folder.
        automatic: transformers' class for its task.
        work: a folder for temporary files.

    Returns:
        A folder with the merged model.

    Raises:
        UsageError: `extra-missing` without PEFT; `model-unreadable`, when the base model is missing or the adapter
            doesn't fit it; `model-unsafe`; or `model-unsupported`.
    """
    base = peft_folder.base(path)
    model, missing = weights.load(automatic, _with_head(path, base, work / "base"))
    try:
        from peft import PeftModel  # noqa: PLC0415 -- an extra
    except ImportError as error:
        message = f"{path} is an adapter of PEFT, which is not installed"
        raise UsageError("extra-missing", message, "pip install 'edgeml-deploy[export-peft]'") from error
    try:
        merged = PeftModel.from_pretrained(model, path).merge_and_unload(safe_merge=True)
    except Exception as error:  # PEFT lets errors of many kinds pass
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_MAX_CHARS]
        hint = f"check that {base} is the model that the adapter was trained on"
        raise UsageError("model-unreadable", f"PEFT can't merge {path} into {base}: {reason}", hint) from error
    folder = work / path.resolve().name
    known = {name: it for name, it in merged.state_dict().items() if not (name in missing and torch.isnan(it).any())}
    merged.save_pretrained(folder, state_dict=known)
    for source in (base, path):
        for file in (found for pattern in _FILES for found in source.glob(pattern)):
            shutil.copy2(file, folder)
    for file in (found for pattern in _SENTENCE_FILES for found in path.glob(pattern)):
        copied = folder / file.relative_to(path)
        copied.parent.mkdir(exist_ok=True)
        shutil.copy2(file, copied)
    return folder


def _with_head(path: Path, base: Path, folder: Path) -> Path:
    """Link the base model's weights and rules of texts beside a configuration that has the adapter's labels."""
    folder.mkdir()
    for file in base.iterdir():
        if ".safetensors" in file.name or file.name == "generation_config.json":
            (folder / file.name).symlink_to(file.resolve())
    found = json.loads((peft_folder.settings(path) / "config.json").read_bytes())
    count = peft_folder.head_labels(path)
    if count is not None and len(found.get("id2label", {})) != count:
        found["id2label"] = {str(at): f"LABEL_{at}" for at in range(count)}
        found["label2id"] = {label: int(at) for at, label in found["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(found))
    return folder

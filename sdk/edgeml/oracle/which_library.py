"""Which library a model is of, by its files alone: the name of the oracle's adapter to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

TRANSFORMERS: Final = "edgeml.oracle.pipelines"
SENTENCES: Final = "edgeml.oracle.sentence_encoder"
TIMM: Final = "edgeml.oracle.timm_model"
KERAS: Final = "edgeml.oracle.keras_model"
#: Bytes of config.json that are read.
_CONFIG_MAX_BYTES: Final = 1_000_000


def of(model: Path) -> str:
    """Name the adapter for a folder, or for a `.keras` file."""
    if model.suffix == ".keras" and model.is_file():
        return KERAS
    if is_timm(model):
        return TIMM
    return SENTENCES if (model / "modules.json").exists() else TRANSFORMERS


def is_timm(folder: Path) -> bool:
    """Tell whether timm saved the folder: its config.json has no `architectures`, as that of transformers has."""
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(_CONFIG_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "pretrained_cfg" in config and not config.get("architectures")

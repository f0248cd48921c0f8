"""The oracle of a timm folder: `timm.create_model` with `timm.data.create_transform`, from the raw picture.

A picture's file is opened upright, as its EXIF orientation says. timm itself takes opened pictures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from PIL import Image, ImageOps

from edgeml.oracle.protocol import RawItem


def open_folder(folder: Path) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load the model with its weights.

    Returns:
        The library with its version, and a function from an item to its answer.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**settings, is_training=False)
    labels = _labels(folder, model.num_classes)

    def answer(item: RawItem) -> dict[str, Any]:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(item.image or b""))).convert("RGB")
        pixels = transform(picture)[None]
        with torch.inference_mode():
            (output,) = model(pixels)
        inputs = {"pixel_values": np.asarray(pixels)}
        if not labels:
            return {"embedding": output.tolist(), "inputs": inputs}
        scores = output.softmax(-1).tolist()
        pairs = zip(labels, scores, strict=True)
        return {"labels": [{"label": label, "score": score} for label, score in pairs], "inputs": inputs}

    return f"timm {timm.__version__}", answer


def _labels(folder: Path, classes: int) -> list[str]:
    """List the labels by class, else their numbers; timm saves a list, or a dictionary by number."""
    config = json.loads((folder / "config.json").read_bytes())
    names = config.get("label_names") or config["pretrained_cfg"].get("label_names")
    if isinstance(names, dict):
        return [names[str(number)] for number in range(classes)]
    return list(names) if names else [str(number) for number in range(classes)]

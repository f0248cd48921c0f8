"""Detection from a model folder's JSON files: image preprocessing and boxes. No weights, no torch.

All pictures are resized to one size, since a board's model has fixed shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.huggingface import image_processor
from edgeml_core.errors import UsageError
from edgeml_core.processing import Boxes, ImageInput

#: Types of models whose boxes each have scores for all labels and "no object", one box for each object.
TYPES: Final = ("detr", "table-transformer", "yolos")


class _Processor(msgspec.Struct, frozen=True):
    size: dict[str, int] | int
    pad_size: dict[str, int] | None = None


def image_input(folder: Path) -> ImageInput:
    """Read the preprocessing of pictures.

    Raises:
        UsageError: `model-unreadable` when preprocessor_config.json is missing; `model-unsupported` when pictures
            aren't resized, keep their own proportions, or are padded to a fixed size.
    """
    image = image_processor.image_input(folder)
    found = folders.read(folder / "preprocessor_config.json", _Processor)
    hint = "set a size of height and width in preprocessor_config.json, and no pad_size"
    if found is None or found.pad_size:
        raise UsageError("model-unsupported", "the image processor pads pictures to a fixed size", hint)
    if not (isinstance(found.size, dict) and {"height", "width"} <= found.size.keys()):
        message = f"the image processor's size {found.size} keeps a picture's proportions; a bundle has one size"
        raise UsageError("model-unsupported", message, hint)
    return image


def boxes(folder: Path, logits: str, boxes: str) -> Boxes:
    """Describe the postprocessing to boxes.

    Args:
        folder: the model's.
        logits: name of the output of scores.
        boxes: name of the output of boxes.

    Raises:
        UsageError: `model-unsupported`, for a model with scores of another kind.
    """
    config = folders.config(folder)
    if config.model_type not in TYPES:
        hint = f"use a model of one of the types {', '.join(TYPES)}"
        raise UsageError("model-unsupported", f"detectors of type {config.model_type!r} are not known", hint)
    return Boxes(logits=logits, boxes=boxes, labels=config.labels)

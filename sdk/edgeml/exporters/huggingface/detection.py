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
#: Width by height of most cameras' pictures, for a processor that keeps a picture's own proportions.
_PROPORTION: Final = 4 / 3
#: Pixels of which height and width are multiples; backbones halve a picture five times.
_STEP: Final = 32


class _Processor(msgspec.Struct, frozen=True):
    size: dict[str, int] | int
    pad_size: dict[str, int] | None = None
    max_size: int | None = None


def image_input(folder: Path) -> tuple[ImageInput, tuple[str, ...]]:
    """Read the preprocessing of pictures, and make notes on it for the card.

    Raises:
        UsageError: `model-unreadable` when preprocessor_config.json is missing; `model-unsupported` when pictures
            aren't resized, or padded to a fixed size.
    """
    image = image_processor.image_input(folder)
    found = folders.read(folder / "preprocessor_config.json", _Processor)
    if found is None or found.pad_size:
        hint = "set a size of height and width in it, and no pad_size"
        raise UsageError("model-unsupported", "the image processor pads pictures to a fixed size", hint)
    if isinstance(found.size, dict) and {"height", "width"} <= found.size.keys():
        return image, ()
    longest = found.max_size if isinstance(found.size, int) else found.size.get("longest_edge")
    width = min(image.height * _PROPORTION, longest or image.height * _PROPORTION)
    fixed = msgspec.structs.replace(image, height=_stepped(image.height), width=_stepped(width))
    note = (
        f"pictures are resized to {fixed.width} x {fixed.height} in any proportions, which the original keeps: "
        "set a size of height and width in preprocessor_config.json to choose another"
    )
    return fixed, (note,)


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


def _stepped(pixels: float) -> int:
    return max(_STEP, round(pixels / _STEP) * _STEP)

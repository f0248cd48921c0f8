"""What a detector's folder says of itself in its JSON files. No weights, no torch.

Pictures are resized to one size here, since a board's model has fixed shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgeml.exporters.huggingface import folder as folders
from edgeml_core.errors import UsageError
from edgeml_core.processing import Boxes, ImageInput

#: Types of models that score each box over all labels and "no object", and find every object once.
TYPES: Final = ("detr", "table-transformer", "yolos")
#: Width by height of what most cameras take, for a processor that keeps every picture's own proportions.
_PROPORTION: Final = 4 / 3
#: Pixels; backbones halve a picture five times.
_STEP: Final = 32


class _Processor(msgspec.Struct, frozen=True):
    size: dict[str, int] | int
    pad_size: dict[str, int] | None = None
    max_size: int | None = None


def image_input(folder: Path) -> tuple[ImageInput, tuple[str, ...]]:
    """How pictures become tensors, and what the card is to say of that.

    Raises:
        UsageError: `model-unreadable` when preprocessor_config.json is missing; `model-unsupported` when pictures
            aren't resized, or padded to a fixed size.
    """
    image = folders.image_input(folder)
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
        f"pictures are resized to {fixed.width} x {fixed.height} whatever their proportions, which the original keeps: "
        "set a size of height and width in preprocessor_config.json to choose another"
    )
    return fixed, (note,)


def boxes(folder: Path, logits: str, boxes: str) -> Boxes:
    """What the outputs mean.

    Raises:
        UsageError: `model-unsupported`, for a model whose scores are of another kind.
    """
    config = folders.config(folder)
    if config.model_type not in TYPES:
        hint = f"use a model of one of the types {', '.join(TYPES)}"
        raise UsageError("model-unsupported", f"detectors of type {config.model_type!r} are not known", hint)
    return Boxes(logits=logits, boxes=boxes, labels=config.labels)


def _stepped(pixels: float) -> int:
    return max(_STEP, round(pixels / _STEP) * _STEP)

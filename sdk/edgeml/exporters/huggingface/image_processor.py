"""An image processor's settings, preprocessor_config.json, as a bundle's preprocessing of pictures.

The oracle compares the tensors, so a setting that is not known here ships in no bundle of a folder. The card of an
`.onnx` file says that no library compared them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta

from edgeml.exporters.huggingface.folder import read
from edgeml_core.errors import UsageError
from edgeml_core.processing import ImageInput

#: PIL's numbers of resampling filters, as image processors store them.
_RESAMPLE: Final[dict[int, Literal["nearest", "lanczos", "bilinear", "bicubic"]]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
_DEFAULT_RESAMPLE: Final = 2
#: Pixels; ConvNeXT's processor crops pictures that it resizes to less.
_CROP_BELOW_PIXELS: Final = 384
#: LeViT's processor enlarges the shortest edge by this before the crop.
#: Source: transformers 4.57 `LevitImageProcessor.resize`.
_LEVIT_EDGE: Final = 256 / 224
#: Types whose bare number for `size` is of a square's sides; the other ones' is of the shortest edge.
#: Source: transformers 4.57, the processors that crop and call `get_size_dict(size)`.
_SQUARE: Final = ("Beit", "DeiT", "EfficientFormer", "EfficientNet", "Flava", "OwlViT")
#: Pixels of a side; one float32 picture of twice this has the memory of a board.
EDGE_MAX_PIXELS: Final = 4096


_Pixels: TypeAlias = Annotated[int, Meta(gt=0, le=EDGE_MAX_PIXELS)]


class _Size(msgspec.Struct, frozen=True):
    height: _Pixels | None = None
    width: _Pixels | None = None
    shortest_edge: _Pixels | None = None


class _Processor(msgspec.Struct, frozen=True):
    """The file. Processors of torchvision store null for a step that they leave out."""

    size: _Size | _Pixels
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    crop_size: _Size | _Pixels | None = None
    do_resize: bool | None = True
    do_center_crop: bool | None = False
    do_rescale: bool | None = True
    do_normalize: bool | None = True
    do_flip_channel_order: bool | None = False
    resample: int | None = _DEFAULT_RESAMPLE
    rescale_factor: float | None = 1 / 255
    rescale_offset: bool | None = False
    include_top: bool | None = False
    #: Absent where the processor never normalizes, as MobileViT's.
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    crop_pct: float | None = None

    def is_of(self, *types: str) -> bool:
        """Return whether it is of one of these types, which have rules of their own."""
        return (self.image_processor_type or self.feature_extractor_type or "").startswith(types)


class _Geometry(msgspec.Struct, frozen=True):
    """The model's height and width; before a crop the shortest edge, or height and width."""

    height: int | None
    width: int | None
    edge: int = 0
    resized: tuple[int, int] | None = None


def image_input(folder: Path) -> ImageInput:
    """Read the preprocessing of pictures.

    Raises:
        UsageError: `model-unreadable` when the file is missing or malformed; `model-unsupported` when pictures aren't
            resized, or to no known size or by no known filter.
    """
    found = read(folder / "preprocessor_config.json", _Processor)
    if found is None:
        raise UsageError(
            "model-unreadable", f"{folder} has no preprocessor_config.json", "save the image processor too"
        )
    if not found.do_resize:
        raise UsageError("model-unsupported", "the image processor doesn't resize", "set do_resize and size in it")
    place = _geometry(found)
    if not place.height or not place.width:
        raise UsageError("model-unsupported", "the image processor's size is not understood", "give height and width")
    mean, std = _colours(found)
    return ImageInput(
        height=place.height,
        width=place.width,
        channels=1 if len(mean) == 1 else 3,
        layout="NCHW",
        resample=_resample(found),
        rescale=(found.rescale_factor or 1.0) if found.do_rescale else 1.0,
        mean=mean,
        std=std,
        resize_shortest_edge=place.edge,
        resize_to=place.resized or UNSET,
        bgr=True if found.do_flip_channel_order else UNSET,
    )


def _resample(found: _Processor) -> Literal["nearest", "lanczos", "bilinear", "bicubic"]:
    number = _DEFAULT_RESAMPLE if found.resample is None else found.resample
    if number not in _RESAMPLE:
        known = ", ".join(f"{it} ({name})" for it, name in _RESAMPLE.items())
        message = f"the image processor has resample {number}; a bundle has {known}"
        raise UsageError("model-unsupported", message, "train and save the model with one of them")
    return _RESAMPLE[number]


def _geometry(found: _Processor) -> _Geometry:
    size = found.size
    if not isinstance(size, _Size):
        size = _Size(height=size, width=size) if found.is_of(*_SQUARE) else _Size(shortest_edge=size)
    crop = found.crop_size
    crop = crop if isinstance(crop, _Size) else _Size(height=crop, width=crop)
    edge = size.shortest_edge or 0
    if found.crop_pct and 0 < edge < _CROP_BELOW_PIXELS:
        return _Geometry(height=edge, width=edge, edge=int(edge / found.crop_pct))
    if not found.do_center_crop:
        return _Geometry(height=size.height or edge, width=size.width or edge)
    if edge:
        enlarged = int(_LEVIT_EDGE * edge) if found.is_of("Levit") else edge
        return _Geometry(height=crop.height, width=crop.width, edge=enlarged)
    resized = (size.height, size.width) if size.height and size.width else None
    return _Geometry(height=crop.height if resized else None, width=crop.width, resized=resized)


def _colours(found: _Processor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Join the steps after rescaling into one mean and one deviation by channel.

    EfficientNet's processor subtracts 1 (`rescale_offset`), and for classifiers divides by the deviation once more.
    """
    given_mean, given_std = found.image_mean or (0.0,) * 3, found.image_std or (1.0,) * 3
    mean = given_mean if found.do_normalize else (0.0,) * len(given_mean)
    std = given_std if found.do_normalize else (1.0,) * len(given_mean)
    offset = 1.0 if found.do_rescale and found.rescale_offset else 0.0
    again = given_std if found.include_top else (1.0,) * len(given_mean)
    return tuple(it + offset for it in mean), tuple(one * other for one, other in zip(std, again, strict=True))

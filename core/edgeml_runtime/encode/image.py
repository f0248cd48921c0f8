"""The adapter to Pillow: the bytes of an image file to a tensor, as transformers' image processors or timm make it.

The order is theirs: upright, colour mode, resize, centre crop, rescale, normalize. Only formats that Pillow decodes in
this process are accepted. A picture's size in pixels is checked before it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeml_core.errors import UsageError
from edgeml_core.processing import ImageInput
from edgeml_runtime.tensors import Array

FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
#: Pixels; a camera's 32 megapixels are 96 MiB when decoded, which a 512 MB board can hold.
PIXELS_MAX: Final = 32 * 1024 * 1024
#: Pixels of all pictures in one request: five photos of 12 megapixels. A board decodes some ten megapixels a second.
TOGETHER_PIXELS_MAX: Final = 2 * PIXELS_MAX

_SMALLER: Final = "scale it down before sending it"
_RESAMPLE: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class EncodedPicture(NamedTuple):
    """A picture's tensor, and the width and height in pixels of the whole upright picture."""

    tensor: Array
    size: tuple[int, int]


def to_tensor(data: bytes, image: ImageInput) -> Array:
    """Encode one picture: see `encode`."""
    return encode(data, image).tensor


def encode(data: bytes, image: ImageInput) -> EncodedPicture:
    """Encode one picture, and report the picture's size.

    Args:
        data: a file in one of `FORMATS`.
        image: the manifest's size, colours and scaling.

    Returns:
        A tensor of float32 and shape [1, channels, height, width], or [1, height, width, channels] for NHWC.

    Raises:
        UsageError: `input-invalid`, when the file is damaged, of another format or larger than `PIXELS_MAX`.

    Source: transformers 4.57 `ViTImageProcessor`, held equal within 1e-5 by a test.
    """
    decoded = _decoded(data, image)
    picture = _resized(decoded, image)
    pixels = np.asarray(picture, dtype=np.float32).reshape(image.height, image.width, image.channels)
    mean, std = np.asarray(image.mean, np.float32), np.asarray(image.std, np.float32)
    pixels = pixels[..., ::-1] if image.bgr else pixels
    scaled = (pixels * np.float32(image.rescale) - mean) / std
    ordered = scaled.transpose(2, 0, 1) if image.layout == "NCHW" else scaled
    return EncodedPicture(np.ascontiguousarray(ordered[np.newaxis], dtype=np.float32), decoded.size)


def check_together(files: Iterable[bytes]) -> None:
    """Check the pixels of all pictures in a request, before one is decoded.

    Args:
        files: one that can't be read counts nothing here: `encode` refuses it.

    Raises:
        UsageError: `input-invalid`, when they have more than `TOGETHER_PIXELS_MAX`.
    """
    pixels = sum(map(_pixels, files))
    if pixels > TOGETHER_PIXELS_MAX:
        message = f"the request's images have {pixels} pixels together; {TOGETHER_PIXELS_MAX} are allowed"
        raise UsageError("input-invalid", message, "send fewer images at a time, or scale them down before")


def _pixels(file: bytes) -> int:
    try:
        with Image.open(BytesIO(file), formats=FORMATS) as picture:
            return picture.width * picture.height
    except Exception:  # noqa: BLE001 -- as `_decoded`
        return 0


def _decoded(data: bytes, image: ImageInput) -> Image.Image:
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        _check_pixels(picture.width, picture.height)
        return ImageOps.exif_transpose(picture).convert("RGB" if image.channels == 3 else "L")
    except UsageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, which is above ours
        raise UsageError("input-invalid", f"the image has more than {PIXELS_MAX} pixels", _SMALLER) from error
    except Exception as error:  # Pillow raises errors of many types for damaged files; found by flipping bytes
        # Pillow names the object by its address in memory, which tells nobody what is wrong.
        reason = f"it begins with {data[:4]!r}" if isinstance(error, UnidentifiedImageError) else error
        hint = f"send a whole file in one of the formats {', '.join(FORMATS)}"
        raise UsageError("input-invalid", f"the image can't be read: {reason}", hint) from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > PIXELS_MAX:
        message = f"the image has {width} x {height} pixels, or would have after resizing; {PIXELS_MAX} are allowed"
        raise UsageError("input-invalid", message, _SMALLER)


def _resized(picture: Image.Image, image: ImageInput) -> Image.Image:
    size = _size_before_crop(picture, image)
    _check_pixels(*size)  # a very narrow picture grows without bound
    resized = picture.resize(size, _RESAMPLE[image.resample])
    left, top = (_corner(it, image) for it in (resized.width - image.width, resized.height - image.height))
    return resized.crop((left, top, left + image.width, top + image.height))


def _corner(spare: int, image: ImageInput) -> int:
    return round(spare / 2) if image.corner_half_even else spare // 2


def _size_before_crop(picture: Image.Image, image: ImageInput) -> tuple[int, int]:
    """Return the width and height of the resized picture; they are the model's where nothing is cropped."""
    if image.resize_to:
        height, width = image.resize_to
        return width, height
    edge = image.resize_shortest_edge
    if not edge:
        return image.width, image.height
    short, long = sorted(picture.size)
    length = int(edge * long / short)
    return (edge, length) if picture.width <= picture.height else (length, edge)

"""Pictures to tensors; equality with transformers' image processors is an integration test."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from edgeml_core.errors import UsageError
from edgeml_core.processing import ImageInput
from edgeml_runtime.encode.image import check_together, to_tensor


def settings(**changes):
    """As they are, 2 x 2 pixels in three colours."""
    plain = {
        "height": 2,
        "width": 2,
        "channels": 3,
        "layout": "NCHW",
        "resample": "nearest",
        "rescale": 1.0,
        "mean": (0.0,),
        "std": (1.0,),
    }
    return ImageInput(**(plain | changes))


def encoded(pixels, file_format="PNG", **options):
    """The bytes of a file with these pixels."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(out, file_format, **options)
    return out.getvalue()


def bomb(width, height):
    """A small PNG that claims to be large."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


COLOURS = np.arange(12).reshape(2, 2, 3)


def test_layouts():
    """NCHW has the colours first, NHWC last; both lead with a batch of one."""
    assert np.array_equal(to_tensor(encoded(COLOURS), settings())[0], COLOURS.transpose(2, 0, 1))
    assert np.array_equal(to_tensor(encoded(COLOURS), settings(layout="NHWC"))[0], COLOURS)


def test_rescale_and_normalize_by_channel():
    """Each channel is scaled, then has its own mean taken off and is divided by its own deviation."""
    scaled = settings(rescale=0.5, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0), layout="NHWC")
    expected = (COLOURS * 0.5 - [1, 2, 3]) / [1, 2, 4]
    assert np.allclose(to_tensor(encoded(COLOURS), scaled)[0], expected)


def test_one_channel_is_grey():
    """A colour picture for a grey model becomes its luminance."""
    grey = to_tensor(encoded(np.full((2, 2, 3), [255, 0, 0])), settings(channels=1))
    assert grey.shape == (1, 1, 2, 2)
    assert np.all(grey == 76)


def test_transparent_and_palette_pictures_become_colours():
    """Any colour mode that the formats allow is taken."""
    picture = Image.fromarray(COLOURS.astype(np.uint8))
    for mode in ("RGBA", "P", "L", "1"):
        out = io.BytesIO()
        picture.convert(mode).save(out, "PNG")
        assert to_tensor(out.getvalue(), settings()).shape == (1, 3, 2, 2)


def test_a_turned_photo_is_set_upright():
    """The camera's orientation mark is followed."""
    pixels = np.zeros((2, 2, 3))
    pixels[0, 0] = 255
    orientation = Image.Exif()
    orientation[0x0112] = 3
    turned = to_tensor(encoded(pixels, exif=orientation), settings())
    assert turned[0, 0].tolist() == [[0, 0], [0, 255]]


def test_centre_crop_after_the_shortest_edge():
    """The picture keeps its proportions and loses what lies beside the centre."""
    wide = np.repeat(np.arange(6)[np.newaxis, :, np.newaxis], 2, axis=0).repeat(3, axis=2)
    cropped = to_tensor(encoded(wide), settings(resize_shortest_edge=2))
    assert cropped[0, 0].tolist() == [[2, 3], [2, 3]]


@pytest.mark.parametrize(("width", "down", "half_even"), [(6, 2, 2), (7, 2, 2), (8, 3, 3), (9, 3, 4)])
def test_corner_of_the_crop_is_rounded_down_or_half_to_even(width, down, half_even):
    """As transformers' image processors do, and as torchvision does."""
    wide = np.repeat(np.arange(width)[np.newaxis, :, np.newaxis], 2, axis=0).repeat(3, axis=2)
    plain, other = settings(resize_shortest_edge=2), settings(resize_shortest_edge=2, corner_half_even=True)
    assert [to_tensor(encoded(wide), it)[0, 0, 0, 0] for it in (plain, other)] == [down, half_even]


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", "it begins with b''$", "send a whole file"),
        (b"no image", "it begins with b'no i'$", "send a whole file"),
        (encoded(np.zeros((64, 64, 3)))[:-40], "can't be read", "send a whole file"),
        (bomb(6000, 6000), "has 6000 x 6000 pixels.* 33554432 are allowed", "scale it down"),
        (bomb(60_000, 60_000), "more than 33554432 pixels", "scale it down"),
    ],
    ids=["empty", "text", "cut short", "above our bound", "above Pillow's"],
)
def test_bad_pictures_are_input_errors(data, message, hint):
    """What can't be decoded, or is too large to be, is refused with a remedy; no address in memory is shown."""
    with pytest.raises(UsageError, match=message) as caught:
        to_tensor(data, settings())
    assert caught.value.code == "input-invalid"
    assert hint in caught.value.hint


def test_formats_that_run_programs_are_refused():
    """PostScript, which Pillow hands to another program, is no picture here."""
    out = io.BytesIO()
    Image.new("RGB", (2, 2)).save(out, "EPS")
    with pytest.raises(UsageError, match="can't be read"):
        to_tensor(out.getvalue(), settings())


def test_a_narrow_picture_doesnt_grow_without_bound():
    """A strip whose shortest edge is one pixel would be hundreds of times as long when resized: refused."""
    strip = encoded(np.zeros((1, 200_000, 3)))
    with pytest.raises(UsageError, match="after resizing"):
        to_tensor(strip, settings(height=224, width=224, resize_shortest_edge=224))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "WEBP"])
def test_flipped_bytes_never_escape(file_format):
    """A file damaged anywhere is decoded or refused; no exception of Pillow's comes out."""
    orientation = Image.Exif()
    orientation[0x0112], orientation[0x010E] = 6, "a description"
    random = np.random.default_rng(0)
    whole = encoded(random.integers(0, 255, (12, 15, 3)), file_format, exif=orientation)
    outcomes = set()
    for _ in range(1500):
        damaged = bytearray(whole)
        for place in np.minimum(random.exponential(len(whole) / 6, 3), len(whole) - 1):
            damaged[int(place)] = random.integers(0, 256)
        try:
            outcomes.add(to_tensor(bytes(damaged), settings()).shape)
        except UsageError as error:
            outcomes.add(error.code)
    assert outcomes - {(1, 3, 2, 2)} == {"input-invalid"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pixels_of_all_pictures_of_a_request_are_bounded(count):
    """Before one is decoded; a file that can't be read counts nothing, as it is refused by itself."""
    files = [bomb(8192, 4096), b"no picture"] * count
    if count <= 2:
        check_together(files)
        return
    with pytest.raises(UsageError, match="100663296 pixels together; 67108864 are allowed"):
        check_together(files)

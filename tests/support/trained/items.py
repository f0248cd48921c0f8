"""Real items: speech of espeak-ng, photos, rendered text, and files of the disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from support import sounds
from support.trained import wheels

RATE_HZ: Final = 16_000
SENTENCES: Final = (
    "Alexa, what is the weather in Berlin tomorrow?",
    "The quick brown fox jumps over the lazy dog.",
    "Hey Mycroft, set a timer for ten minutes please.",
    "Turn off the lights in the kitchen and the hall.",
    "Hey Jarvis, play some music in the living room.",
    "Seven boats left the harbour before the storm came in.",
    "Alexa, remind me to water the plants on Sunday.",
    "Please read the meter again and write down the number.",
    "Hey Mycroft, how far is it from Paris to Rome?",
    "Our pump runs at two bars and thirty degrees.",
    "Hey Jarvis, stop the alarm in the cellar.",
    "Nobody answered the door, so he left a letter.",
)
VOICES: Final = ("en-us", "en-gb+f3", "en-us+m4", "en-gb")
WORDS: Final = (
    "Invoice 20417", "Total 318.50 EUR", "Platform 9", "Gate B24", "Do not enter", "Serial 7F-22A", "Berlin Hbf",
    "Open 08:00-18:30", "Max load 750 kg", "Room 312", "Emergency exit", "Caution hot", "Pressure 2.4 bar", "Exit",
    "Departure 14:05", "Paid in full", "Flight LH 2031", "Keep dry", "Batch 0093", "Made in Portugal",
)  # fmt: skip
PHOTOS: Final = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle_left", "hubble_deep_field", "ihc", "camera")
#: Bytes; kinds of smaller files are a guess.
FILE_MIN_BYTES: Final = 600
_IMAGES: Final = "scikit-image==0.26.0"


@cache
def speech(rate_hz: int = RATE_HZ) -> list[NDArray[np.float32]]:
    """Speak each sentence, with half a second of quiet noise before and after it: float32 [samples], -1 to 1."""
    noise = np.random.default_rng(0)
    found = []
    for at, sentence in enumerate(SENTENCES):
        voice = VOICES[at % len(VOICES)]
        samples = sounds.spoken(sentence, voice=voice, words_a_minute=140 + 5 * at, rate_hz=rate_hz)
        quiet = noise.normal(0, 0.002, rate_hz // 2)
        found.append(np.concatenate([quiet, samples, quiet]).astype(np.float32))
    return found


@cache
def photos() -> list[Image.Image]:
    """Photos and crops of them, in RGB: first the whole ones, then three crops of each."""
    place = wheels.folder(_IMAGES) / "skimage" / "data"
    whole = [Image.open(next(place.glob(f"{name}.*"))).convert("RGB") for name in PHOTOS]
    crops = []
    for left, top in ((0.0, 0.0), (0.3, 0.1), (0.2, 0.35)):
        for photo in whole:
            width, height = photo.size
            box = (left * width, top * height, (left + 0.6) * width, (top + 0.6) * height)
            crops.append(photo.crop(tuple(int(it) for it in box)))
    return [*whole, *crops]


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl  # noqa: PLC0415 -- its fonts alone

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def line(text: str, *, upside_down: bool = False) -> Image.Image:
    """Print one line of text, 48 pixels high, on an uneven ground."""
    font = _font(30)
    width = int(font.getlength(text)) + 24
    shade = np.linspace(200, 250, width)[None, :, None] + np.random.default_rng(len(text)).normal(0, 4, (48, width, 3))
    picture = Image.fromarray(shade.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((12, 5), text, fill=(30, 20, 60), font=font)
    return picture.rotate(180) if upside_down else picture


def sheet(number: int) -> Image.Image:
    """Paste lines of text over a photo."""
    picture = photos()[number % 8].resize((480, 352))
    draw = ImageDraw.Draw(picture)
    for row in range(4):
        text = WORDS[(number * 4 + row) % len(WORDS)]
        place = (20 + 30 * ((number + row) % 5), 20 + 80 * row)
        draw.rectangle(draw.textbbox(place, text, font=_font(24)), fill=(240, 240, 235))
        draw.text(place, text, fill=(20, 20, 40), font=_font(24))
    return picture


def files() -> list[Path]:
    """Files of many kinds that the Python installation and its packages brought."""
    packages = Path(np.__file__).parents[1]
    kinds = ("py", "json", "png", "ttf", "svg", "csv", "txt", "so", "h", "md", "html", "js", "css", "pyi", "gz", "npz")
    found: list[Path] = []
    for kind in kinds:
        of_kind = [it for it in sorted(packages.glob(f"*/**/*.{kind}")) if it.stat().st_size > FILE_MIN_BYTES]
        found += of_kind[:: max(1, len(of_kind) // 6)][:6]
    return found


def mixed_files() -> list[Path]:
    """Files in an order that mixes their kinds."""
    found = files()
    return [found[int(at)] for at in np.random.default_rng(0).permutation(len(found))]


@cache
def captchas() -> list[Image.Image]:
    """Draw captchas of four characters, as the package `captcha` does."""
    import random  # noqa: PLC0415 -- the package draws from it

    state = random.getstate()
    random.seed(7)
    with wheels.imported("captcha.image", ["captcha==0.7.1"]) as module:
        painter = module.ImageCaptcha(width=160, height=60)
        texts = ["".join(random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=4)) for _ in range(40)]  # noqa: S311 -- pictures
        found = [Image.open(painter.generate(text)).convert("RGB") for text in texts]
    random.setstate(state)
    return found

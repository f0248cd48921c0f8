"""Items that preparations get wrong: made for each kind of model, and never used to calibrate."""

from __future__ import annotations

import bisect
import io
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from PIL import Image as Pictures

from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Classes,
    ImageInput,
    MaskFill,
    Postprocess,
    Preprocess,
    PromptInput,
    QuestionInput,
    TextInput,
)
from edgeml_runtime.tasks import Audio, Image, Item, Prompt, Question, Text

#: One word, white space, capitals, accents, other scripts, signs outside of any vocabulary, and a pair of sentences.
TEXTS: Final = (
    "no",
    "  Two\tspaces \n and a line.  ",
    "LOUD WORDS, Quiet words!",
    "Zwölf Äpfel, naïve façade, el niño.",
    "Το νερό είναι κρύο. Вода холодная. 水很冷。お水は冷たいです。",  # noqa: RUF001 -- Greek and Cyrillic are meant
    "\N{GRINNING FACE} 3.14 % @user #tag https://example.org/a?b=c",
    "The pump stopped. The operator was asleep until the morning, when the tank had already run dry.",
)
#: A claim that follows, a query with a document, and an empty second text.
PAIRS: Final = (
    ("The operator was asleep.", "Nobody watched the pump."),
    ("why is the tank dry", TEXTS[-1]),
    ("Ja.", ""),
)
#: Characters of the long text; more than any fixed length of a small model.
LONG_CHARS: Final = 6_000
#: Tokens that a language model writes on.
CONTINUED_TOKENS: Final = 8
#: Tokens that fill a mask; more than anyone looks at.
FILLS: Final = 20
#: Width and height in pixels, and the colours of the file.
PICTURES: Final = (
    (320, 180, "RGB"),
    (120, 260, "RGB"),
    (37, 23, "RGB"),
    (200, 150, "L"),
    (150, 200, "P"),
    (96, 64, "RGBA"),
)
#: Score of a box; a detector sees little in drawn pictures, and two answers without boxes agree on nothing.
BOXES_MIN: Final = 0.05
#: EXIF's tag for the orientation, and its value for a picture turned by a quarter.
ORIENTATION: Final = (0x0112, 6)
#: Seconds of the sounds.
SOUNDS_S: Final = (0.3, 1.0, 2.7)
SEED: Final = 20


def hard(preprocess: Preprocess, postprocess: Postprocess, unread: Callable[[str], int] | None = None) -> list[Item]:
    """Make the items for a kind of model, for a classifier of texts pairs, too; none for plain tensors.

    Args:
        preprocess: the model's.
        postprocess: the model's.
        unread: counts the tokens of a text that the bundle cuts off: the first text is the longest one that it reads
            whole. None makes no such text.
    """
    match preprocess:
        case QuestionInput():
            return [Question("Who was asleep?", TEXTS[-1]), Question("Wo?", "Im Süden, bei Köln, im alten Haus.")]
        case TextInput():
            mask = postprocess.mask if isinstance(postprocess, MaskFill) else ""
            longest = _longest(unread, mask) if unread else ()
            return [*longest, *(_masked(mask) if mask else _texts(postprocess))]
        case PromptInput():
            return [
                Prompt(prompt=text, max_new_tokens=CONTINUED_TOKENS, temperature=0.0, seed=0)
                for text in TEXTS
                if text.strip()
            ]
        case ImageInput():
            return list(_pictures(BOXES_MIN if isinstance(postprocess, Boxes) else None))
        case AudioInput():
            return list(_sounds(preprocess))
        case _:
            return []


def _longest(unread: Callable[[str], int], mask: str) -> Iterator[Text]:
    """Cut the long text to the longest beginning that is read whole: a library with a lower limit reads less of it."""
    text = f"{mask} {' '.join(TEXTS) * 20}".lstrip()[:LONG_CHARS]
    chars = bisect.bisect_left(range(len(text) + 1), 1, key=lambda it: unread(text[:it])) - 1
    if len(mask) < chars < len(text):
        yield Text(text[:chars], top_k=FILLS if mask else None)


def _texts(postprocess: Postprocess) -> Iterator[Text]:
    yield from map(Text, TEXTS)
    yield Text((" ".join(TEXTS) * 20)[:LONG_CHARS])
    yield from (Text(*pair) for pair in (PAIRS if isinstance(postprocess, Classes) else ()))


def _masked(mask: str) -> Iterator[Text]:
    """Put the mask at the beginning, at the end, inside of a word and alone; then twice, and nowhere."""
    for text in TEXTS:
        yield Text(f"{text} {mask}.", top_k=FILLS)
    yield Text(f"{mask}, {TEXTS[-1]}")
    yield Text(f"The pump's {mask}stopped , didn 't it ?")
    yield Text(mask, top_k=1)
    yield Text(f"{mask} {' '.join(TEXTS) * 20}"[:LONG_CHARS])
    yield Text(f"The {mask} has {mask}.")
    yield Text("The pump has stopped.")


def _pictures(threshold: float | None) -> Iterator[Image]:
    """Draw pictures whose colours, edges and corners differ, so that each wrong step shows."""
    for number, (width, height, colours) in enumerate(PICTURES):
        picture = _drawn(width, height, number)
        yield Image(_file(picture.convert(colours), "PNG"), threshold)
    turned = Pictures.Exif()
    turned[ORIENTATION[0]] = ORIENTATION[1]
    held = io.BytesIO()
    _drawn(240, 160, len(PICTURES)).save(held, "JPEG", quality=95, exif=turned)
    yield Image(held.getvalue(), threshold)


def _drawn(width: int, height: int, seed: int) -> Pictures.Image:
    random = np.random.default_rng(SEED + seed)
    down, across = np.mgrid[0:height, 0:width]
    waves = [np.sin(across / random.uniform(3, 40) + down / random.uniform(3, 40)) for _ in range(3)]
    shades = [255 * across / width, 255 * down / height, 128 + 127 * np.sin((across + down) / 20)]
    pixels = np.stack([0.6 * shade + 0.4 * (127.5 + 127.5 * wave) for shade, wave in zip(shades, waves, strict=True)])
    return Pictures.fromarray(pixels.transpose(1, 2, 0).astype(np.uint8), "RGB")


def _file(picture: Pictures.Image, kind: str) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind)
    return held.getvalue()


def _sounds(audio: AudioInput) -> Iterator[Audio]:
    """Make tones in noise of several lengths, the last one quiet, all at the model's rate."""
    random = np.random.default_rng(SEED)
    for number, seconds in enumerate(SOUNDS_S):
        count = int(seconds * audio.sampling_rate_hz)
        if count < audio.min_samples:
            continue
        times = np.arange(count) / audio.sampling_rate_hz
        tone = np.sin(2 * np.pi * (180 + 160 * number) * times) * np.exp(-times)
        samples = (0.4 * tone + 0.05 * random.standard_normal(count)) * (0.1 if number == len(SOUNDS_S) - 1 else 1.0)
        yield Audio(samples.astype(np.float32), audio.sampling_rate_hz)

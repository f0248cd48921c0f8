"""The inputs of the checks: the operator's rows where there are any, else inputs that come with edgeml.

Text models get real sentences. Images, sounds and tensors get fixed patterns, and the card says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image as Pictures

from edgeml.check.data import Rows
from edgeml.check.sample_texts import SENTENCES
from edgeml.exporters.source import Source
from edgeml_core.processing import AudioInput, ImageInput, MaskFill, PromptInput, QuestionInput, TextInput
from edgeml_runtime.tasks import Audio, Image, Item, Prompt, Question, Tensors, Text

#: Rows of each data file; parity settles with far fewer.
ROWS_TAKEN_MAX: Final = 64
PATTERNS: Final = 4
#: Characters of a paragraph: 130 to 250 tokens.
PARAGRAPH_CHARS: Final = 700
#: Tokens of the long text: the longest length that is compiled into a model.
LONG_TOKENS: Final = 512
#: Characters, more than tokenizers put into one token; the tokenizer cuts the rest.
CHARS_PER_TOKEN: Final = 8
#: Words at a text's beginning, one of which becomes the mask.
MASKED_WORDS: Final = 4
QUESTIONS: Final = ("What happened?", "Where was it?", "Who or what was it about?", "When did it happen?")
UNREAL: Final = "parity was measured on fixed patterns: give --evaluate or --calibrate to measure it on real inputs"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Items to run, and notes on them for the card."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


def gather(source: Source, *data: Rows) -> Inputs:
    """Gather the inputs for parity, golden cases and latency."""
    given = tuple(item for rows in data for item in rows.items[:ROWS_TAKEN_MAX])
    preprocess = source.signature.preprocess
    if isinstance(preprocess, TextInput | PromptInput):
        fills = source.signature.postprocess
        mask = fills.mask if isinstance(fills, MaskFill) else ""
        return Inputs(items=(*_texts(preprocess, mask), *given))
    if given:
        return Inputs(items=given)
    if isinstance(preprocess, ImageInput):
        return Inputs(items=tuple(_pattern(preprocess, turn) for turn in range(PATTERNS)), notes=(UNREAL,))
    if isinstance(preprocess, AudioInput):
        return Inputs(items=tuple(_sweep(preprocess, turn) for turn in range(PATTERNS)), notes=(UNREAL,))
    # A function brings a real example. An .onnx or .keras file brings none, so the loader made one up.
    notes = (UNREAL,) if source.original_name.startswith(("ONNX", "Keras")) else ()
    return Inputs(items=(Tensors(dict(source.example)),), notes=notes)


def _texts(preprocess: TextInput | PromptInput, mask: str) -> Iterable[Item]:
    match preprocess:
        case QuestionInput():
            return _questions()
        case PromptInput():
            return map(_prompt, SENTENCES)
        case _:
            texts = _sentences_and_long_texts(preprocess.max_length)
            return [Text(_masked(text, mask, number) if mask else text) for number, text in enumerate(texts)]


def _sentences_and_long_texts(max_length: int) -> list[str]:
    """List the sentences, a paragraph and a long text: every fixed length of a model gets an input."""
    whole = " ".join(SENTENCES)
    chars = min(max_length, LONG_TOKENS) * CHARS_PER_TOKEN
    return [*SENTENCES, whole[:PARAGRAPH_CHARS], (whole * (chars // len(whole) + 1))[:chars]]


def _masked(text: str, mask: str, number: int) -> str:
    """Put a mask in place of one of the first four words, which no length cuts off."""
    words = text.split(" ")
    words[number % min(len(words), MASKED_WORDS)] = mask
    return " ".join(words)


def _questions() -> list[Item]:
    """Ask questions of each sentence with its neighbours as context, so that lengths differ."""
    contexts = (" ".join(SENTENCES[at : at + 1 + at % 3]) for at in range(len(SENTENCES)))
    return [Question(QUESTIONS[at % len(QUESTIONS)], context) for at, context in enumerate(contexts)]


def _prompt(sentence: str) -> Prompt:
    return Prompt(prompt=sentence[: len(sentence) // 2].rstrip(), max_new_tokens=1, temperature=0.0, seed=0)


def _sweep(audio: AudioInput, turn: int) -> Audio:
    """Make a second or less of a rising tone, another for each `turn`."""
    seconds = np.arange(max(audio.min_samples, min(audio.max_samples, audio.sampling_rate_hz))) / audio.sampling_rate_hz
    tone = np.sin(2 * np.pi * (200 * (turn + 1) + 600 * seconds) * seconds)
    return Audio((0.3 * tone).astype(np.float32), audio.sampling_rate_hz)


def _pattern(image: ImageInput, turn: int) -> Image:
    """Draw slanted stripes over a gradient, another picture for each `turn`."""
    down, across = np.mgrid[0 : image.height, 0 : image.width]
    stripes = 127.5 + 127.5 * np.sin((down * (turn + 1) + across * 2) * np.pi / 8)
    gradient = 255 * across / max(1, image.width - 1)
    pixels = ((stripes + gradient) / 2).astype(np.uint8)
    held = BytesIO()
    Pictures.fromarray(pixels, "L").save(held, "PNG")
    return Image(held.getvalue())

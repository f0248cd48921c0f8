"""Recordings, and what transformers' own pipeline writes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import transformers
from numpy.typing import NDArray

from support import sounds, tiny_whisper

#: Of Whisper. Greedy: the pipeline itself searches five beams.
OPTIONS: Final = {"num_beams": 1, "task": "transcribe", "max_new_tokens": tiny_whisper.TOKENS_MAX - 4}
Heard = Callable[..., str]


def pipeline(model: Path) -> Heard:
    """Return the library's own function of a model's folder: samples, and for Whisper a language, to the text."""
    asked = transformers.pipeline("automatic-speech-recognition", model=str(model), device="cpu")
    options = OPTIONS if asked.type.startswith("seq2seq") else {}

    def heard(samples: NDArray[np.float32], **named: str) -> str:
        raw = {"raw": samples.copy(), "sampling_rate": sounds.SAMPLING_RATE_HZ}
        generate: dict[str, Any] = {"generate_kwargs": options | named} if options else {}
        return str(asked(raw, **generate)["text"])

    return heard


def record(file: Path, samples: NDArray[np.float32], heard: Heard, language: str = "und") -> str:
    """Write a sound file, and beside it what the pipeline writes of it, also where it is told that it is English.

    Args:
        file: where; its suffix names its form.
        samples: what is recorded.
        heard: the pipeline.
        language: what a response names.

    Returns:
        The pipeline's text.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, sounds.SAMPLING_RATE_HZ)
    recorded, _ = soundfile.read(file, dtype="float32")
    text, english = (heard(recorded, **named) for named in ({}, {"language": "en"}))
    file.with_suffix(".json").write_text(json.dumps({"text": text, "english": english, "language": language}))
    return text

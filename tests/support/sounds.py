"""Sounds and their files."""

from __future__ import annotations

import io
import wave
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLING_RATE_HZ: Final = 16_000


def tone(seconds: float) -> NDArray[np.float32]:
    """A chord with some noise: float32 samples between -1 and 1."""
    count = int(seconds * SAMPLING_RATE_HZ)
    times = np.arange(count) / SAMPLING_RATE_HZ
    noise = np.random.default_rng(0).normal(0, 0.01, count)
    return np.asarray(
        0.3 * np.sin(2 * np.pi * 440 * times) + 0.2 * np.sin(2 * np.pi * 1250 * times) + noise, np.float32
    )


def wav(samples: NDArray[np.float32], *, rate_hz: int = SAMPLING_RATE_HZ) -> bytes:
    """A WAV file of 16-bit integers in one channel."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return held.getvalue()

"""Sounds and their files."""

from __future__ import annotations

import io
import subprocess
import wave
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLING_RATE_HZ: Final = 16_000
#: Of espeak-ng's files: the rate, the bytes before 16-bit samples, and full scale.
_SPOKEN_HZ: Final = 22_050
_SPOKEN_HEAD_BYTES: Final = 44
_FULL_SCALE: Final = 2**15


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


def spoken(
    text: str, *, voice: str = "en-us", words_a_minute: int = 150, rate_hz: int = SAMPLING_RATE_HZ
) -> NDArray[np.float32]:
    """Speech of espeak-ng: float32 samples between -1 and 1."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(words_a_minute), text]
    file = subprocess.run(command, check=True, capture_output=True).stdout
    samples = np.frombuffer(file[_SPOKEN_HEAD_BYTES:], "<i2").astype(np.float32) / _FULL_SCALE
    return np.asarray(soxr.resample(samples, _SPOKEN_HZ, rate_hz), np.float32)


def samples(file: bytes) -> NDArray[np.float32]:
    """The samples in a file of `wav`."""
    return np.frombuffer(file[44:], "<i2").astype(np.float32) / np.float32(_FULL_SCALE)

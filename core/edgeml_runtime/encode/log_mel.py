"""Whisper's spectrum of a sound: logarithms of mel bands, which Slaney's Auditory Toolbox spaces and weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from edgeml_core.processing import LogMel
from edgeml_runtime.tensors import Array

#: Samples; a frame is 25 ms, and the next one begins 10 ms later, at 16 kHz.
FRAME_SAMPLES: Final = 400
HOP_SAMPLES: Final = 160
#: Hz; the bands lie below it.
HIGHEST_HZ: Final = 8000.0
#: Logarithms to the base 10: of the least energy of a band, and the largest distance below the loudest band.
_FLOOR: Final = -10.0
_RANGE: Final = 8.0
#: Slaney's scale of mels is linear up to this frequency, and logarithmic above it.
_LINEAR_HZ: Final = 1000.0
_HZ_PER_MEL: Final = 200 / 3
_LINEAR_MELS: Final = _LINEAR_HZ / _HZ_PER_MEL
_MELS_PER_LOG: Final = 27 / np.log(6.4)


def spectrum(samples: Array, spec: LogMel, rate_hz: int) -> Array:
    """Compute the spectrum of a recording with silence behind it.

    Args:
        samples: float32 [samples], no more than `spec.samples`.
        spec: the bands and the whole length.
        rate_hz: the sampling rate.

    Returns:
        float32 of shape [bins, frames].

    Source: transformers 4.57 `WhisperFeatureExtractor`, held equal by a test.
    """
    half, frames = FRAME_SAMPLES // 2, spec.samples // HOP_SAMPLES
    # Silence at the end is not computed: it is the floor.
    heard = min(frames, -(-(samples.size + half) // HOP_SAMPLES))
    whole = np.pad(np.pad(samples, (0, spec.samples - samples.size)), half, mode="reflect")
    parts = np.lib.stride_tricks.sliding_window_view(whole, FRAME_SAMPLES)[::HOP_SAMPLES][:heard]
    power = np.abs(np.fft.rfft(parts * _window())) ** 2
    bands = np.full((spec.bins, frames), _FLOOR)
    bands[:, :heard] = np.log10(np.maximum(power @ _filters(spec.bins, rate_hz), 10**_FLOOR)).T
    return np.asarray((np.maximum(bands, bands.max() - _RANGE) + 4) / 4, np.float32)


@lru_cache(maxsize=1)
def _window() -> Array:
    """Make a Hann window of one period."""
    return np.asarray(np.hanning(FRAME_SAMPLES + 1)[:-1])


@lru_cache(maxsize=4)
def _filters(bins: int, rate_hz: int) -> Array:
    """Make triangles over frequencies, each of area 1, one column a band."""
    frequencies = np.linspace(0, rate_hz // 2, FRAME_SAMPLES // 2 + 1)
    most = _LINEAR_MELS + np.log(HIGHEST_HZ / _LINEAR_HZ) * _MELS_PER_LOG
    corners = _hertz(np.linspace(0, most, bins + 2))
    widths, distances = np.diff(corners), corners[np.newaxis] - frequencies[:, np.newaxis]
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2])))


def _hertz(mels: Array) -> Array:
    above = _LINEAR_HZ * np.exp((mels - _LINEAR_MELS) / _MELS_PER_LOG)
    return np.where(mels < _LINEAR_MELS, mels * _HZ_PER_MEL, above)

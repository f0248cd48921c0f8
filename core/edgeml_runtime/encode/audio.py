"""Sound for a model: the bytes of a file to samples, samples to the tensor that transformers' extractors make.

`log_mel` has Whisper's spectrum. The standard library reads WAV files of integers at the model's own rate, and numpy
does the rest. `sound_file` reads all other files, and resamples them.
"""

from __future__ import annotations

import wave
from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np

from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput, MelSpectrum
from edgeml_runtime.encode import log_mel, sound_file
from edgeml_runtime.tasks import Audio
from edgeml_runtime.tensors import Array

#: Samples; Kaldi's frames are 25 ms every 10 ms at 16 kHz, transformed at the next power of two.
FRAME_SAMPLES: Final = 400
HOP_SAMPLES: Final = 160
_FFT_SAMPLES: Final = 512
_PREEMPHASIS: Final = 0.97
_LOWEST_HZ: Final = 20.0
#: Lower bound of a band's energy before its logarithm: float32's epsilon.
_FLOOR: Final = 1.192092955078125e-07
#: Bytes by which programs err that count a WAV file's head to its content, or twice.
_HEAD_MAX_BYTES: Final = 64
#: From here on a WAV file's length says nothing: a program that writes to a pipe doesn't know it.
_STREAMED_MIN_BYTES: Final = 0x7FFF_0000
#: Data type, silence and full scale of integer samples, by their size in bytes.
_INTEGERS: Final = {1: ("<u1", 128, 2**7), 2: ("<i2", 0, 2**15), 4: ("<i4", 0, 2**31)}


def read(data: bytes, rate_hz: int) -> Audio:
    """Read a sound file: a WAV file of integers at `rate_hz` needs no further package, others need an extra.

    Returns:
        float32 samples of shape [samples] at `rate_hz`, within -1 and 1 but for the resampling filter.

    Raises:
        UsageError: `input-invalid`, when the file is damaged, of an unknown form or too long, or the extra is missing.
    """
    _check_whole(data)
    try:
        sound = read_wav(data)
    except UsageError:  # the other reader knows further kinds of WAV files, or says what is wrong
        return sound_file.read(data, rate_hz)
    return sound_file.resampled(sound, rate_hz)


def _check_whole(data: bytes) -> None:
    """Refuse a WAV file that ends early: its readers take what is there for all of it.

    Raises:
        UsageError: `input-invalid`.
    """
    stated = int.from_bytes(data[4:8], "little")
    if data.startswith(b"RIFF") and len(data) + _HEAD_MAX_BYTES < stated < _STREAMED_MIN_BYTES:
        message = f"the WAV file has {len(data)} bytes, its head states {stated + 8}"
        raise UsageError("input-invalid", message, "send the whole file")


def read_wav(data: bytes) -> Audio:
    """Read a WAV file of 8, 16, 24 or 32-bit integers; several channels become their mean.

    Returns:
        float32 samples of shape [samples], within -1 and 1.

    Raises:
        UsageError: `input-invalid`, when the file is damaged or of another kind.
    """
    hint = "send a WAV file of 16-bit PCM"
    try:
        with wave.open(BytesIO(data)) as file:
            width, channels, rate_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
        samples = _samples(frames, width).reshape(-1, channels).mean(axis=1, dtype=np.float32)
    except (wave.Error, EOFError, ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise UsageError("input-invalid", f"the sound can't be read: {error!r}", hint) from error
    return Audio(samples, rate_hz)


def _samples(frames: bytes, width: int) -> Array:
    if width == 3:  # numpy has no 24-bit integer: each becomes the upper part of one of four bytes
        padded = np.zeros((len(frames) // 3, 4), dtype=np.uint8)
        padded[:, 1:] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        frames, width = padded.tobytes(), 4
    dtype, silence, scale = _INTEGERS[width]
    return (np.frombuffer(frames, dtype).astype(np.float32) - silence) / np.float32(scale)


def samples_max(spec: AudioInput) -> int:
    """Count the samples of a recording that the model reads."""
    most = min(spec.max_samples, max(spec.pad_to, default=spec.max_samples))
    return most if spec.mel is None else min(most, (spec.mel.frames - 1) * HOP_SAMPLES + FRAME_SAMPLES)


def to_tensor(audio: Audio, spec: AudioInput) -> Array:
    """Encode one recording.

    Returns:
        float32 of shape [1, samples], [1, frames, bins] for a mel spectrum, [1, bins, frames] for Whisper's.

    Raises:
        UsageError: `input-invalid`, for another sampling rate than the model's, or too short a recording.

    Source: transformers 4.57 `Wav2Vec2FeatureExtractor`, `ASTFeatureExtractor` and `WhisperFeatureExtractor`, held
    equal by a test.
    """
    if audio.sampling_rate_hz != spec.sampling_rate_hz:
        message = f"the sound has {audio.sampling_rate_hz} samples a second, the model takes {spec.sampling_rate_hz}"
        raise UsageError("input-invalid", message, f"record it at {spec.sampling_rate_hz} Hz, or convert it before")
    if audio.samples.size < spec.min_samples:
        message = f"the sound has {audio.samples.size} samples, the model takes {spec.min_samples} at least"
        raise UsageError("input-invalid", message, "record a longer one")
    samples = audio.samples[: samples_max(spec)]
    if spec.log_mel:
        return log_mel.spectrum(samples, spec.log_mel, spec.sampling_rate_hz)[np.newaxis]
    if spec.mel is not None:
        return _mel(samples, spec.mel, spec.sampling_rate_hz)[np.newaxis]
    if spec.normalize:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    length = min((bucket for bucket in spec.pad_to if bucket >= samples.size), default=samples.size)
    return np.pad(samples, (0, length - samples.size))[np.newaxis].astype(np.float32)


def _mel(samples: Array, mel: MelSpectrum, rate_hz: int) -> Array:
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES][: mel.frames]
    frames = frames - frames.mean(axis=1, keepdims=True, dtype=np.float64)
    frames[:, 1:] -= _PREEMPHASIS * frames[:, :-1]
    frames[:, 0] *= 1 - _PREEMPHASIS
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES), _FFT_SAMPLES)) ** 2
    bands = np.log(np.maximum(power @ _filters(mel.bins, rate_hz), _FLOOR))
    whole = np.zeros((mel.frames, mel.bins), dtype=np.float32)
    whole[: len(bands)] = bands
    return (whole - np.float32(mel.mean)) / np.float32(2 * mel.std)


@lru_cache(maxsize=4)
def _filters(bins: int, rate_hz: int) -> Array:
    """Make triangles over frequencies, of equal width in mels, one column a band."""
    frequencies = _mels(np.arange(_FFT_SAMPLES // 2 + 1) * (rate_hz / _FFT_SAMPLES))
    corners = np.linspace(_mels(np.array(_LOWEST_HZ)), _mels(np.array(rate_hz // 2)), bins + 2)
    widths, distances = np.diff(corners), corners[np.newaxis] - frequencies[:, np.newaxis]
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling))


def _mels(hertz: Array) -> Array:
    return np.asarray(1127 * np.log1p(hertz / 700))

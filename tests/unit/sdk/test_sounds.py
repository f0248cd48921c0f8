"""Sound files as people have them: widths, rates, channels and kinds; expected samples come from formulas."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from edgeml import sounds
from edgeml_core.errors import UsageError
from edgeml_runtime.encode import audio
from support.sounds import tone, wav

RATE_HZ = 16_000


def sine(rate_hz: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)


def extensible_24(samples: np.ndarray, rate_hz: int) -> bytes:
    """A file of 24-bit integers with the header that recorders write for them, by Microsoft's description."""
    values = (samples * (2**23 - 1)).astype("<i4")
    frames = values[:, None].view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, rate_hz, rate_hz * 3, 3, 24, 22, 24, 4) + pcm
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(frames)) + frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def written(samples: np.ndarray, rate_hz: int) -> bytes:
    held = io.BytesIO()
    wavfile.write(held, rate_hz, samples)
    return held.getvalue()


def test_read_pcm_equals_the_device():
    """For what a device reads, the host has the same samples."""
    data = wav(tone(0.2))
    np.testing.assert_array_equal(sounds.read(data, RATE_HZ).samples, audio.read_wav(data).samples)


@pytest.mark.parametrize("kind", ["24 bits", "float", "32 bits", "8 bits", "two channels"])
def test_read_gives_the_samples_that_were_written(kind: str):
    """Each width to its own precision."""
    wave = sine(RATE_HZ)
    data, precision = {
        "24 bits": (extensible_24(wave, RATE_HZ), 2**-22),
        "float": (written(wave.astype(np.float32), RATE_HZ), 1e-7),
        "32 bits": (written((wave * 2**31).astype(np.int32), RATE_HZ), 1e-7),
        "8 bits": (written((128 + wave * 127).astype(np.uint8), RATE_HZ), 2**-6),
        "two channels": (written(np.stack([wave * 2, wave * 0], axis=1).astype(np.float32), RATE_HZ), 1e-6),
    }[kind]
    found = sounds.read(data, RATE_HZ)
    assert found.sampling_rate_hz == RATE_HZ
    np.testing.assert_allclose(found.samples, wave, atol=precision)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_read_of_another_rate_gives_the_tone_at_the_models_rate(rate_hz: int):
    """Away from its ends, where a filter has no neighbours, the tone is the formula's."""
    found = sounds.read(written(sine(rate_hz).astype(np.float32), rate_hz), RATE_HZ)
    assert found.samples.size == RATE_HZ // 2
    np.testing.assert_allclose(found.samples[800:-800], sine(RATE_HZ)[800:-800], atol=1e-3)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"<html>", wav(tone(0.1))[:30]])
def test_read_other_files_are_refused(data: bytes):
    """With the kinds that are read."""
    with pytest.raises(UsageError, match="the sound can't be read") as caught:
        sounds.read(data, RATE_HZ)
    assert caught.value.code == "input-invalid"


def test_read_of_a_long_sound_is_refused_before_it_is_decoded():
    """An hour at 8 kHz has more samples at 16 kHz than a request may have."""
    data = written(np.zeros(3600 * 8000, np.uint8), 8000)
    with pytest.raises(UsageError, match="has 57,600,000 samples at 16000 Hz"):
        sounds.read(data, RATE_HZ)

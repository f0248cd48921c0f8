"""Sound files as people have them: widths, rates, channels and forms; samples are a formula's, or soundfile's own."""

from __future__ import annotations

import ctypes
import io
import struct
import sys

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from edgeml_core.errors import UsageError
from edgeml_runtime.encode import audio, sound_file
from edgeml_runtime.tasks import Audio
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


def encoded(kind: str, samples: np.ndarray, rate_hz: int, subtype: str | None = None) -> bytes:
    """A file of one of libsndfile's forms."""
    held = io.BytesIO()
    soundfile.write(held, samples, rate_hz, format=kind, subtype=subtype)
    return held.getvalue()


def test_read_pcm_equals_the_standard_library():
    """For what both read, they have the same samples."""
    data = wav(tone(0.2))
    np.testing.assert_array_equal(sound_file.read(data, RATE_HZ).samples, audio.read_wav(data).samples)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_read_has_the_samples_that_soundfile_decodes(kind: str, subtype: str, channels: int):
    """All of them, and of two channels the mean."""
    sound = np.stack([sine(48_000), sine(48_000)[::-1]], axis=1)[:, :channels].astype(np.float32)
    data = encoded(kind, sound, 48_000, subtype)
    expected, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    found = audio.read(data, 48_000)
    assert (found.sampling_rate_hz, rate_hz) == (48_000, 48_000)
    np.testing.assert_array_equal(found.samples, expected.mean(axis=1, dtype=np.float32))


def test_without_the_extra_other_forms_are_refused_by_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    """A WAV file at the model's rate is read all the same."""
    flac = encoded("FLAC", sine(RATE_HZ), RATE_HZ)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert audio.read(wav(tone(0.1)), RATE_HZ).samples.size == RATE_HZ // 10
    assert sound_file.resampled(Audio(tone(0.1), RATE_HZ), RATE_HZ).samples.size == RATE_HZ // 10
    with pytest.raises(UsageError, match="soxr"):
        sound_file.resampled(Audio(tone(0.1), RATE_HZ), 8_000)
    for data in (wav(tone(0.1), rate_hz=8_000), flac):
        with pytest.raises(UsageError, match="no WAV file of 16-bit PCM at 16000 Hz") as caught:
            audio.read(data, RATE_HZ)
        assert "pip install 'edgeml-deploy[sound]'" in caught.value.hint


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
    found = sound_file.read(data, RATE_HZ)
    assert found.sampling_rate_hz == RATE_HZ
    np.testing.assert_allclose(found.samples, wave, atol=precision)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_read_of_another_rate_gives_the_tone_at_the_models_rate(rate_hz: int):
    """Away from its ends, where a filter has no neighbours, the tone is the formula's."""
    found = sound_file.read(written(sine(rate_hz).astype(np.float32), rate_hz), RATE_HZ)
    assert found.samples.size == RATE_HZ // 2
    np.testing.assert_allclose(found.samples[800:-800], sine(RATE_HZ)[800:-800], atol=1e-3)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"<html>", wav(tone(0.1))[:30]])
def test_read_other_files_are_refused(data: bytes):
    """With the kinds that are read."""
    with pytest.raises(UsageError, match="the sound can't be read") as caught:
        sound_file.read(data, RATE_HZ)
    assert caught.value.code == "input-invalid"


def test_read_of_a_damaged_mp3_file_writes_nothing_to_the_log(capfd: pytest.CaptureFixture[str]):
    """Its decoder notes each damage on C's standard error, which is open again afterwards."""
    data = encoded("MP3", np.random.default_rng(0).normal(0, 0.1, RATE_HZ), RATE_HZ)
    damaged = data[:700] + bytes(300) + data[1000:]
    found = sound_file.read(damaged, RATE_HZ)
    assert found.samples.size > RATE_HZ // 2
    assert capfd.readouterr() == ("", "")
    soundfile.read(io.BytesIO(damaged))
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    assert "Note:" in capfd.readouterr().err


@pytest.mark.parametrize("rate_hz", [100, 655_350])
def test_read_refuses_a_rate_that_no_recorder_has(rate_hz: int):
    """Its filter would take much memory."""
    with pytest.raises(UsageError, match=f"has {rate_hz} samples a second; 4000 to 192000 are read"):
        sound_file.read(encoded("FLAC", np.zeros(80), rate_hz), RATE_HZ)


@pytest.mark.parametrize(
    ("frames", "channels", "why"),
    [
        (20 * 60 * 8_000, 1, "has 19,200,000 samples at 16000 Hz; 8,388,608 at most"),
        (3_000_000, 8, "has 3,000,000 samples in 8 channels; 16,777,216 in all"),
        (0, 1, "has no length"),
    ],
    ids=["20 minutes", "8 channels", "written to a pipe"],
)
def test_read_refuses_a_length_before_it_decodes(frames: int, channels: int, why: str):
    """By the head alone, since few bytes hold hours of silence; a head without a length says nothing."""
    data = encoded("FLAC", np.zeros((80, channels)), 8_000)
    length = ((data[21] & 0xF0) << 32 | frames).to_bytes(5, "big")
    with pytest.raises(UsageError, match=why) as caught:
        sound_file.read(data[:21] + length + data[26:], RATE_HZ)
    assert caught.value.code == "input-invalid"

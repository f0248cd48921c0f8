"""Sound to tensors: the same numbers as transformers' extractors, from files of every kind that `wave` reads."""

import io
import wave

import numpy as np
import pytest

from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput, MelSpectrum
from edgeml_runtime.encode import audio
from edgeml_runtime.tasks import Audio
from support import breadth_models as models

RATE_HZ = models.SAMPLING_RATE_HZ
SAMPLES = AudioInput(sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=32_000, normalize=True)
MEL = AudioInput(
    sampling_rate_hz=RATE_HZ,
    min_samples=400,
    max_samples=400 + 95 * 160,
    mel=MelSpectrum(bins=32, frames=96, mean=-4.2677393, std=4.5689974),
)


@pytest.mark.parametrize("seconds", [0.3, 0.9, 1.7])
def test_a_mel_spectrum_is_that_of_transformers(seconds):
    """Shorter, about as long and longer than the model's frames."""
    sound = models.tone(seconds)
    expected = models.extractor("ast")(sound, sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    found = audio.to_tensor(Audio(sound, RATE_HZ), MEL)
    assert found.shape == (1, 96, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_normalized_samples_are_those_of_transformers():
    """Mean 0 and variance 1."""
    sound = models.tone(0.5)
    expected = models.extractor("wav2vec2")(sound, sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    np.testing.assert_allclose(audio.to_tensor(Audio(sound, RATE_HZ), SAMPLES), expected, atol=1e-5)


def test_padded_samples_are_those_of_transformers():
    """To the next fixed length, with zeros that don't count as sound."""
    sound = models.tone(0.5)
    padded = {"padding": "max_length", "max_length": 16_000, "return_attention_mask": True}
    expected = models.extractor("wav2vec2")(sound, sampling_rate=RATE_HZ, return_tensors="np", **padded)["input_values"]
    fixed = AudioInput(
        sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=64_000, normalize=True, pad_to=(16_000, 64_000)
    )
    np.testing.assert_allclose(audio.to_tensor(Audio(sound, RATE_HZ), fixed), expected, atol=1e-5)


def test_too_long_a_sound_is_cut():
    """At the model's longest."""
    assert audio.to_tensor(Audio(models.tone(3), RATE_HZ), SAMPLES).shape == (1, 32_000)


@pytest.mark.parametrize(("sound", "rate_hz"), [(models.tone(0.01), RATE_HZ), (models.tone(1), 44_100)])
def test_a_sound_that_does_not_fit_is_refused(sound, rate_hz):
    """Too short, or at another rate: nothing is made up."""
    with pytest.raises(UsageError) as caught:
        audio.to_tensor(Audio(sound, rate_hz), SAMPLES)
    assert caught.value.code == "input-invalid"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (1, bytes([128, 192, 64])),
        (2, np.array([0, 16384, -16384], "<i2").tobytes()),
        (3, bytes([0, 0, 0, 0, 0, 0x40, 0, 0, 0xC0])),
        (4, np.array([0, 2**30, -(2**30)], "<i4").tobytes()),
    ],
)
def test_every_width_of_integers_is_read(width, data):
    """Silence, half up, half down."""
    found = audio.read_wav(written(data, width=width))
    assert found.sampling_rate_hz == RATE_HZ
    assert found.samples.tolist() == [0, 0.5, -0.5]


def test_two_channels_become_their_mean():
    """The model hears one."""
    data = np.array([16384, 0, -16384, -16384], "<i2").tobytes()
    assert audio.read_wav(written(data, width=2, channels=2)).samples.tolist() == [0.25, -0.5]


@pytest.mark.parametrize("cut", range(0, 44, 4))
def test_a_file_without_its_whole_head_is_refused(cut):
    """No exception of another kind leaves it, wherever it ends."""
    with pytest.raises(UsageError) as caught:
        audio.read_wav(models.wav(models.tone(0.001))[:cut])
    assert caught.value.code == "input-invalid"


def written(data, *, width, channels=1):
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE_HZ)
        file.writeframes(data)
    return held.getvalue()

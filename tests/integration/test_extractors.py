"""Sound to tensors: the same numbers as transformers' extractors."""

from __future__ import annotations

import numpy as np
import pytest

from edgeml_core.processing import AudioInput, MelSpectrum
from edgeml_runtime.encode import audio
from edgeml_runtime.tasks import Audio
from support import breadth_models as models
from support import sounds

RATE_HZ = sounds.SAMPLING_RATE_HZ
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
    sound = sounds.tone(seconds)
    expected = models.extractor("ast")(sound, sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    found = audio.to_tensor(Audio(sound, RATE_HZ), MEL)
    assert found.shape == (1, 96, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_normalized_samples_are_those_of_transformers():
    """Mean 0 and variance 1."""
    sound = sounds.tone(0.5)
    expected = models.extractor("wav2vec2")(sound, sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    np.testing.assert_allclose(audio.to_tensor(Audio(sound, RATE_HZ), SAMPLES), expected, atol=1e-5)


def test_padded_samples_are_those_of_transformers():
    """To the next fixed length, with zeros that don't count as sound."""
    sound = sounds.tone(0.5)
    padded = {"padding": "max_length", "max_length": 16_000, "return_attention_mask": True}
    expected = models.extractor("wav2vec2")(sound, sampling_rate=RATE_HZ, return_tensors="np", **padded)["input_values"]
    fixed = AudioInput(
        sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=64_000, normalize=True, pad_to=(16_000, 64_000)
    )
    np.testing.assert_allclose(audio.to_tensor(Audio(sound, RATE_HZ), fixed), expected, atol=1e-5)

"""Sound to tensors: the same numbers as transformers' extractors."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from edgeml_core.processing import AudioInput, LogMel, MelSpectrum
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


@pytest.mark.parametrize(("bins", "length_s"), [(80, 30), (128, 30), (20, 2)])
def test_a_spectrum_of_whisper_is_that_of_transformers(bins, length_s):
    """Of speech, of a click, of sound up to the end, of silence; the largest difference was 7e-5."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=length_s)
    samples = length_s * RATE_HZ
    spec = AudioInput(
        sampling_rate_hz=RATE_HZ, min_samples=1, max_samples=samples, log_mel=LogMel(bins=bins, samples=samples)
    )
    given = sounds.spoken("Seven pumps have stopped."), sounds.tone(0.01), sounds.tone(length_s), np.zeros(100, "<f4")
    for sound in given:
        expected = extractor(sound, sampling_rate=RATE_HZ, return_tensors="np")["input_features"]
        found = audio.to_tensor(Audio(sound, RATE_HZ), spec)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=3e-4)


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

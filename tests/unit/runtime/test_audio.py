"""Sound to tensors, from files of every kind that `wave` reads."""

import io
import wave

import numpy as np
import pytest

from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput
from edgeml_runtime.encode import audio
from edgeml_runtime.tasks import Audio
from support import sounds

RATE_HZ = sounds.SAMPLING_RATE_HZ
SAMPLES = AudioInput(sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=32_000, normalize=True)


def test_too_long_a_sound_is_cut():
    """At the model's longest."""
    assert audio.to_tensor(Audio(sounds.tone(3), RATE_HZ), SAMPLES).shape == (1, 32_000)


@pytest.mark.parametrize(("sound", "rate_hz"), [(sounds.tone(0.01), RATE_HZ), (sounds.tone(1), 44_100)])
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
        audio.read_wav(sounds.wav(sounds.tone(0.001))[:cut])
    assert caught.value.code == "input-invalid"


@pytest.mark.parametrize(
    ("cut", "said", "count"),
    [(-1000, None, None), (None, None, 1600), (None, 0xFFFF_FFFF, 1600), (None, 0x7FFF_F024, 1600), (None, 3280, 1600)],
    ids=["cut short", "whole", "from ffmpeg's pipe", "from sox's pipe", "head counted twice"],
)
def test_a_file_that_ends_early_is_refused(cut, said, count):
    """Its beginning isn't answered as the whole; lengths that programs don't know, or count wrong, are no reason."""
    data = bytearray(sounds.wav(sounds.tone(0.1)))
    data[4:8] = (said or len(data) - 8).to_bytes(4, "little")
    if count:
        assert audio.read(bytes(data[:cut]), RATE_HZ).samples.size == count
        return
    with pytest.raises(UsageError, match="has 2244 bytes, its head states 3244") as caught:
        audio.read(bytes(data[:cut]), RATE_HZ)
    assert caught.value.code == "input-invalid"


def written(data, *, width, channels=1):
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE_HZ)
        file.writeframes(data)
    return held.getvalue()

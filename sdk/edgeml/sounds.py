"""The adapter to soundfile and soxr: any sound file to samples at a model's rate, on the host.

A device takes WAV files at the model's own rate only (`edgeml_runtime.encode.audio`).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np

from edgeml_core.errors import UsageError
from edgeml_runtime.requests import SAMPLES_MAX
from edgeml_runtime.tasks import Audio


def read(data: bytes, rate_hz: int) -> Audio:
    """Read a WAV, FLAC, OGG or MP3 file; several channels become their mean.

    Args:
        data: the file.
        rate_hz: samples a second that the model takes; another rate is resampled.

    Returns:
        float32 samples of shape [samples].

    Raises:
        UsageError: `input-invalid`, when the file is damaged, of another kind or too long; `extra-missing`.
    """
    try:
        import soundfile  # noqa: PLC0415 - a part of the extra for exports, which a device doesn't have
        import soxr  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: libsndfile is missing
        message = f"sound files are read with soundfile and soxr, not installed here: {error}"
        raise UsageError("extra-missing", message, "pip install 'edgeml-deploy[export]'") from error
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            own_hz, samples = file.samplerate, file.frames * rate_hz // max(1, file.samplerate)
            if samples > SAMPLES_MAX:
                message = f"the sound has {samples:,} samples at {rate_hz} Hz; {SAMPLES_MAX:,} at most are read"
                raise UsageError("input-invalid", message, "cut it into parts")
            channels = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
        hint = "give a whole WAV, FLAC, OGG or MP3 file"
        raise UsageError("input-invalid", f"the sound can't be read: {error}", hint) from error
    mono = channels.mean(axis=1, dtype=np.float32)
    return Audio(mono if own_hz == rate_hz else soxr.resample(mono, own_hz, rate_hz, quality="HQ"), rate_hz)

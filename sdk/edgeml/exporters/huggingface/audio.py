"""Audio preprocessing from a model folder's JSON files: sampling rate, frames, scaling. No weights, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edgeml.exporters.huggingface import folder as folders
from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput, LogMel, MelSpectrum
from edgeml_runtime.encode.audio import FRAME_SAMPLES, HOP_SAMPLES
from edgeml_runtime.tensors import Array

#: Seconds of one recording; the cost of attention grows with the square of its frames.
SECONDS_MAX: Final = 30
#: The highest rate of common sound hardware.
SAMPLING_RATE_MAX_HZ: Final = 192_000
#: Bands of a spectrum; FFTs of 400 samples tell 201 apart.
MEL_BINS_MAX: Final = 1024
#: Frames of 10 ms in one recording.
FRAMES_MAX: Final = 100 * SECONDS_MAX


class _Extractor(msgspec.Struct, frozen=True):
    feature_extractor_type: str = ""
    sampling_rate: Annotated[int, Meta(gt=0, le=SAMPLING_RATE_MAX_HZ)] = 16_000
    do_normalize: bool = True
    num_mel_bins: Annotated[int, Meta(gt=0, le=MEL_BINS_MAX)] = 128
    max_length: Annotated[int, Meta(gt=0, le=FRAMES_MAX)] = 1024
    mean: float = -4.2677393
    std: float = 4.5689974


class _WhisperExtractor(msgspec.Struct, frozen=True):
    """The settings of Whisper's extractor, whose spectrum has one form; only bands and length differ."""

    feature_extractor_type: Literal["WhisperFeatureExtractor"]
    feature_size: Annotated[int, Meta(gt=0, le=MEL_BINS_MAX)] = 80
    sampling_rate: Literal[16_000] = 16_000
    hop_length: Literal[160] = 160
    n_fft: Literal[400] = 400
    chunk_length: Annotated[int, Meta(gt=0, le=SECONDS_MAX)] = 30
    padding_value: Annotated[float, Meta(ge=0, le=0)] = 0.0
    dither: Annotated[float, Meta(ge=0, le=0)] = 0.0
    do_normalize: Literal[0] = 0


def log_mel_input(folder: Path) -> AudioInput:
    """Read the preprocessing of a Whisper's recordings from preprocessor_config.json.

    Raises:
        UsageError: `model-unreadable` when it is missing, or isn't that of Whisper.
    """
    found = folders.read(folder / "preprocessor_config.json", _WhisperExtractor)
    if found is None:
        hint = "save the feature extractor too"
        raise UsageError("model-unreadable", f"{folder} has no preprocessor_config.json", hint)
    samples = found.chunk_length * found.sampling_rate
    return AudioInput(
        sampling_rate_hz=found.sampling_rate,
        min_samples=1,
        max_samples=samples,
        log_mel=LogMel(bins=found.feature_size, samples=samples),
    )


def audio_input(folder: Path) -> AudioInput:
    """Read the preprocessing of recordings from preprocessor_config.json.

    Raises:
        UsageError: `model-unreadable` when it is missing; `model-unsupported` for an unknown feature extractor.
    """
    found = folders.read(folder / "preprocessor_config.json", _Extractor)
    if found is None:
        hint = "save the feature extractor too"
        raise UsageError("model-unreadable", f"{folder} has no preprocessor_config.json", hint)
    match found.feature_extractor_type:
        case "Wav2Vec2FeatureExtractor":
            return AudioInput(
                sampling_rate_hz=found.sampling_rate,
                min_samples=_fewest_samples(folders.config(folder)),
                max_samples=SECONDS_MAX * found.sampling_rate,
                normalize=found.do_normalize,
            )
        case "ASTFeatureExtractor":
            return AudioInput(
                sampling_rate_hz=found.sampling_rate,
                min_samples=FRAME_SAMPLES,
                max_samples=FRAME_SAMPLES + (found.max_length - 1) * HOP_SAMPLES,
                mel=MelSpectrum(
                    bins=found.num_mel_bins,
                    frames=found.max_length,
                    mean=found.mean if found.do_normalize else 0.0,
                    std=found.std if found.do_normalize else 0.5,
                ),
            )
        case other:
            hint = "export a model with a Wav2Vec2FeatureExtractor or an ASTFeatureExtractor"
            raise UsageError("model-unsupported", f"the feature extractor {other or 'without a name'} is unknown", hint)


def _fewest_samples(config: folders.Config) -> int:
    """Count the samples from which the model's convolutions make one frame."""
    count, kernels, strides = 1, config.conv_kernel, config.conv_stride
    if isinstance(kernels, int) or isinstance(strides, int) or len(kernels) != len(strides):
        message = f"config.json has the kernels {kernels} and the strides {strides}: one each belongs to a convolution"
        raise UsageError("model-unreadable", message, "restore config.json")
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        count = (count - 1) * stride + kernel
    return count


def example(audio: AudioInput) -> Array:
    """Make an input to trace with: a second of silence, float32 [1, samples], or float32 [1, frames, bins]."""
    shape = (1, audio.sampling_rate_hz) if audio.mel is None else (1, audio.mel.frames, audio.mel.bins)
    return np.zeros(shape, dtype=np.float32)

"""The adapter to soundfile and soxr: a sound file of any form to samples at a model's rate.

Both libraries are an optional extra of the device. Only files that begin as one of `FORMATS` reach them. A file's
length is checked before it is decoded: few bytes can hold hours of silence.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from threading import Lock
from typing import Any, Final

import msgspec
import numpy as np

from edgeml_core.errors import UsageError
from edgeml_runtime.tasks import Audio

#: By name: the bytes at which files of that form begin. Those of MP3 files without tags follow a mask.
FORMATS: Final = {"WAV": (b"RIFF",), "FLAC": (b"fLaC",), "OGG": (b"OggS",), "MP3": (b"ID3",)}
#: Eleven bits that are set at the beginning of each frame of an MP3 file.
_MP3_SYNC: Final = 0xFFE0
#: Samples of one recording: eight minutes at 16 kHz; models of sound read 30 s at most.
SAMPLES_MAX: Final = 8 * 1024 * 1024
#: Samples of all channels at the file's own rate: 64 MiB in float32; a minute and 27 s in two channels at 96 kHz.
DECODED_MAX: Final = 2 * SAMPLES_MAX
#: Samples a second of one channel; beyond them a resampling filter takes much memory.
RATE_MIN_HZ: Final = 4_000
RATE_MAX_HZ: Final = 192_000
#: libsndfile's length of a FLAC file whose head has none, as programs write it to a pipe.
_UNKNOWN_FRAMES: Final = 2**63 - 1
#: One file at a time is decoded: the stream of C belongs to the process.
_SILENT: Final = Lock()
_HINT: Final = f"send a whole file in one of the forms {', '.join(FORMATS)}"


def read(data: bytes, rate_hz: int) -> Audio:
    """Read a file; several channels become their mean.

    Args:
        data: the file.
        rate_hz: samples a second that the model takes; another rate is resampled.

    Returns:
        float32 samples of shape [samples].

    Raises:
        UsageError: `input-invalid`, when the file is damaged, of another form or too long, or the extra is missing.
    """
    if not _is_known(data):
        raise UsageError("input-invalid", f"the sound can't be read: it begins with {data[:4]!r}", _HINT)
    soundfile = _library("soundfile", rate_hz)
    try:
        with _silent(), soundfile.SoundFile(BytesIO(data)) as file:
            own_hz: int = file.samplerate
            _check_length(file.frames, file.channels, own_hz, rate_hz)
            channels = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
        reason = getattr(error, "error_string", error)  # without the address of the file in memory
        raise UsageError("input-invalid", f"the sound can't be read: {reason}", _HINT) from error
    with np.errstate(invalid="ignore", over="ignore"):  # a model refuses samples that are no numbers
        mono = channels.mean(axis=1, dtype=np.float32)
    return resampled(Audio(mono, own_hz), rate_hz)


def resampled(sound: Audio, rate_hz: int) -> Audio:
    """Return a sound at another rate.

    Raises:
        UsageError: `input-invalid`, when the sound is too long, no recorder has its rate, or the extra is missing.
    """
    own_hz = sound.sampling_rate_hz
    if own_hz == rate_hz:
        return sound
    _check_length(sound.samples.size, 1, own_hz, rate_hz)
    samples = _library("soxr", rate_hz).resample(sound.samples, own_hz, rate_hz, quality="HQ")
    return msgspec.structs.replace(sound, samples=samples, sampling_rate_hz=rate_hz)


def _library(name: str, rate_hz: int) -> Any:  # noqa: ANN401 - the module
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the wheel for any machine brings no libsndfile
        message = f"the sound is no WAV file of 16-bit PCM at {rate_hz} Hz, and others need a package: {error}"
        hint = f"pip install 'edgeml-deploy[sound]' on the device, or record a WAV file at {rate_hz} Hz"
        raise UsageError("input-invalid", message, hint) from error


def _is_known(data: bytes) -> bool:
    is_mp3 = int.from_bytes(data[:2], "big") & _MP3_SYNC == _MP3_SYNC
    return is_mp3 or data.startswith(tuple(start for starts in FORMATS.values() for start in starts))


def _check_length(frames: int, channels: int, own_hz: int, rate_hz: int) -> None:
    """Check a sound's rate and length, for a file by its head.

    Raises:
        UsageError: `input-invalid`, when it exceeds a limit.
    """
    if not RATE_MIN_HZ <= own_hz <= RATE_MAX_HZ:
        message = f"the sound has {own_hz} samples a second; {RATE_MIN_HZ} to {RATE_MAX_HZ} are read"
        raise UsageError("input-invalid", message, f"record it at {rate_hz} Hz")
    if frames == _UNKNOWN_FRAMES:
        raise UsageError("input-invalid", "the sound's head has no length", "write it to a file, not to a pipe")
    hint = "cut it into parts"
    if frames * channels > DECODED_MAX:
        message = f"the sound has {frames:,} samples in {channels} channels; {DECODED_MAX:,} in all are read"
        raise UsageError("input-invalid", message, hint)
    if (samples := frames * rate_hz // own_hz) > SAMPLES_MAX:
        message = f"the sound has {samples:,} samples at {rate_hz} Hz; {SAMPLES_MAX:,} at most are read"
        raise UsageError("input-invalid", message, hint)


@contextmanager
def _silent() -> Iterator[None]:
    """Let C code write nothing to standard error: it is the log of an agent.

    libmpg123, by which libsndfile reads MP3 files, writes there what is wrong with a file, and no option keeps it from
    that. Python and C++ write by streams of their own. Only glibc lets a program replace the stream of C.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    stream = ctypes.c_void_p.in_dll(libc, "stderr")
    with _SILENT:
        before, stream.value = stream.value, _nowhere()
        try:
            yield
        finally:
            stream.value = before


@lru_cache(maxsize=1)
def _nowhere() -> int | None:
    """Return a stream of C that forgets what is written; None is not the null device's."""
    open_stream = ctypes.CDLL(None).fopen
    open_stream.restype = ctypes.c_void_p
    found: int | None = open_stream(b"/dev/null", b"w")
    return found

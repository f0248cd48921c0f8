"""The temporary folder in which an export works, and the quiet in which the converters do.

Nothing of an export lies outside its output folder: the converters' own temporary files come here too, and the folder
goes away with its context.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TextIO

from edgeml_core.errors import DeviceError, UsageError

_LOG: Final = "tools.log"
_NO_SPACE: Final = os.strerror(errno.ENOSPC)
_FULL_HINT: Final = "free some space, about six times the fp32 model's size, or name another folder with -o"
#: Set before any of these libraries is imported: no hub, no telemetry, no advice, no pickle.
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}
#: torchao warns, when it is imported, of each CUDA library of its own that a CPU build of torch can't load.
_NOISY_LOGGERS: Final = ("torchao",)
#: Where the converters and torch's compiler put temporary files; torch remembers its own in the environment.
_FOLDERS: Final = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR")


@contextlib.contextmanager
def folder(output: Path) -> Iterator[Path]:
    """A working folder inside `output`, which is made where it doesn't exist, and not left behind empty.

    Raises:
        UsageError: `usage`, when `output` can't be written to. DeviceError: `disk-full`, when the work in it ran full.
    """
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=".export-", dir=output, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError("usage", f"{output} can't be written to: {error}", "name a folder of your own") from error
    before, tempfile.tempdir = tempfile.tempdir, holder.name
    try:
        with holder, _environment(_ENVIRONMENT | dict.fromkeys(_FOLDERS, holder.name)):
            yield Path(holder.name)
    except Exception as error:
        if ran_full(error):
            raise DeviceError("disk-full", f"the disk ran full below {output}: {error}", _FULL_HINT) from error
        raise
    finally:
        tempfile.tempdir = before
        if is_new and not any(output.iterdir()):
            output.rmdir()


def ran_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, however deep: converters wrap it, or keep only its words."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or _NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def quiet(work: Path) -> Iterator[None]:
    """Send what the converters print, from Python or C++, to a file in `work` instead of the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with (work / _LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with _printing_to(work / _LOG):
                yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    # Where sys.stdout is not file 1 (a test's capture), redirecting the file alone isn't enough. And converters add
    # handlers to the root logger, which would go on writing to a file that is closed by then.
    handlers = logging.root.handlers[:]
    with path.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), _logging_to(log):
        try:
            yield
        finally:
            logging.root.handlers[:] = handlers


@contextlib.contextmanager
def _logging_to(log: TextIO) -> Iterator[None]:
    # The caller's own handlers write to streams that no redirection reaches, such as a notebook's.
    handler = logging.StreamHandler(log)
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value

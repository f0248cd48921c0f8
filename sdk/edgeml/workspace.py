"""The temporary folder of an export, and a redirection of the converters' output.

An export writes nothing outside of its output folder. The converters' own temporary files lie in the temporary folder,
too, which the end of its context removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TextIO

from edgeml_core.errors import DeviceError, UsageError

#: The names of working folders begin with this.
_PREFIX: Final = ".export-"
_LOG: Final = "tools.log"
_NO_SPACE: Final = os.strerror(errno.ENOSPC)
#: Exports take about six times the fp32 model's size: its formats, its candidates and the bundles.
_FULL_HINT: Final = "free some space, about six times the fp32 model's size, or name another folder with -o"
#: Environment set before the libraries are imported: no hub, no telemetry, no advice, no pickle.
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
#: Environment variables of the folders for temporary files of converters and torch's compiler.
_FOLDERS: Final = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR")


@contextlib.contextmanager
def folder(output: Path) -> Iterator[Path]:
    """Make a temporary folder inside `output`, which is made as well, and removed if it stays empty.

    Temporary folders that killed exports left there are removed.

    Raises:
        UsageError: `usage`, when `output` can't be written to.
        DeviceError: `disk-full`, when the disk was full during the context.
    """
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as clearing:
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is cleared either
                clearing.enter_context(_locked(output, fcntl.LOCK_EX))
            _clear(output)
            holder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=output, ignore_cleanup_errors=True)
            lock = _hold(Path(holder.name))
    except OSError as error:
        raise UsageError("usage", f"{output} can't be written to: {error}", "name a folder of your own") from error
    before, tempfile.tempdir = tempfile.tempdir, holder.name
    try:
        with lock, holder, _environment(_ENVIRONMENT | dict.fromkeys(_FOLDERS, holder.name)):
            yield Path(holder.name)
    except Exception as error:
        if ran_full(error):
            raise DeviceError("disk-full", f"the disk ran full below {output}: {error}", _FULL_HINT) from error
        raise
    finally:
        tempfile.tempdir = before
        if is_new and not any(output.iterdir()):
            output.rmdir()


def _clear(output: Path) -> None:
    """Remove the folders that killed exports left. A running export holds the lock of its own."""
    for path in output.glob(f"{_PREFIX}*"):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(path, ignore_errors=True)


def _hold(folder: Path) -> contextlib.ExitStack:
    """Lock a folder until the stack is closed, where its file system has locks."""
    stack = contextlib.ExitStack()
    with contextlib.suppress(OSError):
        stack.enter_context(_locked(folder, fcntl.LOCK_EX))
    return stack


@contextlib.contextmanager
def _locked(folder: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def ran_full(error: BaseException | None) -> bool:
    """Return whether a full disk caused an error. Converters wrap the cause, or keep its text only."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or _NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def quiet(work: Path) -> Iterator[None]:
    """Redirect the converters' output, from Python or C++, to a file in `work`."""
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
    # Where sys.stdout is not file 1 (a test's capture), redirecting the file alone isn't enough. Converters also add
    # handlers to the root logger, which would write to a closed file later.
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

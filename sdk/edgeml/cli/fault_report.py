"""An unexpected exception becomes the error `internal`, with a file that holds what a bug report needs."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

from edgeml.cli import config
from edgeml_core import __version__
from edgeml_core.errors import DeviceError, EdgemlError, InternalError

#: Distributions whose versions a report names, where they are installed.
_LIBRARIES: Final = (
    *("torch", "transformers", "sentence-transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime"),
    *("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "scikit-learn", "skl2onnx", "numpy"),
    *("tokenizers", "safetensors", "msgspec", "click", "aiomqtt", "tuf"),
)
#: Characters of the exception's own text in the error's one line.
_LINE_MAX_CHARS: Final = 200


def as_error(error: BaseException, arguments: Sequence[str]) -> EdgemlError:
    """Make the error for an unexpected exception, and write its report.

    Args:
        error: no `EdgemlError`; its traceback goes into the report.
        arguments: of the command line, without the program's name.

    Returns:
        `internal`, which names the report's path; `memory-short` for a `MemoryError`, without a report.
    """
    if isinstance(error, MemoryError):
        hint = "free memory, or take a smaller model"
        return DeviceError("memory-short", "this machine ran out of memory", hint)
    line = " ".join(f"{type(error).__name__}: {error}".split())[:_LINE_MAX_CHARS]
    message = f"edgeml failed unexpectedly: {config.masked('', line)}"
    try:
        path = _write("\n".join(_lines(error, arguments)))
    except OSError as full:
        hint = "run the command again with TMPDIR set to a folder that can be written to, and send its report"
        return InternalError("internal", f"{message}; no report was written: {full}", hint)
    return InternalError("internal", f"{message}; the report is {path}", f"send {path} to edgeml's maintainers")


def _write(text: str) -> str:
    """Write a file that only this user reads, into the folder for temporary files."""
    descriptor, path = tempfile.mkstemp(prefix="edgeml-report-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as report:
        report.write(text)
    return path


def _lines(error: BaseException, arguments: Sequence[str]) -> Iterator[str]:
    yield f"edgeml {__version__}, {datetime.now(UTC).isoformat(timespec='seconds')}"
    yield f"command: edgeml {' '.join(without_secrets(arguments))}"
    yield f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"
    yield ""
    for part in traceback.format_exception(error):
        for line in part.rstrip().splitlines():
            yield str(config.masked("", line))


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Replace the values of options with a secret's name, and user and password in URLs.

    >>> without_secrets(["--broker", "mqtt://ann:pw@host", "--password", "pw", "--token=abc"])
    ['--broker', 'mqtt://********@host', '--password', '********', '--token=********']
    """
    found: list[str] = []
    option = ""
    for argument in arguments:
        name, is_pair, value = argument.partition("=")
        is_option = argument.startswith("-")
        if not is_option:
            found.append(_masked(option, argument))
        else:
            found.append(f"{name}={_masked(name, value)}" if is_pair else argument)
        option = argument if is_option and not is_pair else ""
    return found


def _masked(option: str, value: str) -> str:
    return str(config.masked(option.replace("-", "_"), value))

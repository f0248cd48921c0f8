"""The programs of `support.programs` forked from a process that has imported them, to be killed hundreds of times.

A forked process has memory, sockets and locks of its own, and saves a second of imports. Its clock can be wrong.
"""

from __future__ import annotations

import datetime as dt
import importlib
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Final

from support.waiting import TIMEOUT_S

_FORKS: Final = multiprocessing.get_context("forkserver")
#: Imported by the process that all are forked from. It is one for the whole test run: the first use decides.
_PRELOADED: Final = [
    "aiomqtt",
    "edgeml.cli.publish",
    "edgeml.fleet.serve",
    "edgeml_agent.main",
    "edgeml_runtime.engines.ort",
    "uvicorn",
]


class Forked:
    """A program, with its log in a file.

    Args:
        log: the file that its output is added to.
        command: `-m`, `edgeml` or `edgeml_agent`, and the arguments of its command line.
        clock_s: how far its clock is off, in seconds.
    """

    def __init__(self, log: Path, *command: str, clock_s: float = 0.0) -> None:
        self.log = log
        _, module, *arguments = command
        _FORKS.set_forkserver_preload(_PRELOADED)
        self.process = _FORKS.Process(target=_run, args=(str(log), module, arguments, clock_s), daemon=True)
        self.process.start()

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL, which leaves no chance to clean up."""
        self.process.kill()
        self.process.join()

    def stop(self) -> int:
        """Send SIGTERM as a service manager does, and return the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        self.process.join(TIMEOUT_S)
        assert self.process.exitcode is not None, f"it doesn't end: {self.log}"
        return self.process.exitcode


def _run(log: str, module: str, arguments: list[str], clock_s: float) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for name in [name for name in os.environ if name.startswith("EDGEML_")]:
        del os.environ[name]
    if clock_s:
        importlib.import_module("edgeml_agent.main")  # other tests may have started the process forked from without it
        _set_clock(clock_s)
    if module == "edgeml_agent":
        from edgeml_agent.cli import main  # noqa: PLC0415 - imported already, in the process forked from

        main(arguments)
    sys.argv = [module, *arguments]
    from edgeml.__main__ import main as host  # noqa: PLC0415

    host()


def _set_clock(off_s: float) -> None:
    """Set both clocks that edgeml and python-tuf read, in this process only."""
    real, true = time.time, dt.datetime

    class Wrong(true):  # type: ignore[misc, valid-type]
        """The class `datetime`, at the wrong time."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            """The wrong time."""
            return true.now(tz) + dt.timedelta(seconds=off_s)

    time.time = lambda: real() + off_s
    for name, module in list(sys.modules.items()):
        if name.startswith(("edgeml_agent.", "tuf.")) and getattr(module, "datetime", None) is true:
            module.datetime = Wrong  # type: ignore[attr-defined]

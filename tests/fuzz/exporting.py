"""`edgeml export` in processes forked from one that has imported torch and the converters, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FORKS: Final = multiprocessing.get_context("forkserver")
#: Imported by the process that all are forked from. It is one for the whole test run: the first use decides.
_PRELOADED: Final = [
    "edgeml.cli.export",
    "edgeml.pipeline.export",
    "edgeml.exporters.huggingface.model",
    "edgeml.exporters.function",
]
#: Seconds for one export, on a busy machine; beyond it the program hangs.
TIMEOUT_S: Final = 300.0
#: Seconds of timing, which no input of the campaign depends on.
_BUDGET_S: Final = 0.05


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, negative for a signal, and its output."""

    code: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str) -> Ended:
    """Run the command line in `folder`.

    Raises:
        TimeoutError: it didn't end.
    """
    names = [folder / "stdout.txt", folder / "stderr.txt"]
    _FORKS.set_forkserver_preload(_PRELOADED)
    process = _FORKS.Process(target=_run, args=([str(name) for name in names], str(folder), arguments))
    process.start()
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"edgeml {' '.join(arguments)} didn't end within {TIMEOUT_S:.0f} s")
    return Ended(process.exitcode, *(name.read_text(errors="replace") for name in names))


def _run(streams: Sequence[str], folder: str, arguments: Sequence[str]) -> None:
    for number, name in enumerate(streams, 1):
        file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
    os.chdir(folder)
    from edgeml.cli.main import run as run_cli  # noqa: PLC0415 -- in the forked process
    from edgeml.pipeline.request import ExportRequest, MeasuringBudget  # noqa: PLC0415 -- as above

    brief = MeasuringBudget(paired_s=_BUDGET_S, alone_s=_BUDGET_S, turns_s=_BUDGET_S)
    ExportRequest.__init__.__kwdefaults__["budget"] = brief
    run_cli(list(arguments))

"""The runtime without a server, in a process of its own: `runtime_alone.py FOLDER SECONDS` replies to lines on stdin.

A reply holds two medians in ms: of the session's run on tensors, and of a task's request with all its processing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeml_core import manifest as manifests
from edgeml_runtime.model import Model

if TYPE_CHECKING:
    from serving_parts.served_models import ServedModel

INPUTS: Final = "inputs.npz"
TASK_REQUEST: Final = "task_request.json"


@dataclass
class RuntimeAlone:
    """The process, and its medians so far: of the session's run, and of an answer to a task's request."""

    process: subprocess.Popen[str]
    run_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Time both once more."""
        self.process.stdin.write("\n")
        run_ms, answer_ms = json.loads(self.process.stdout.readline())
        self.run_ms.append(run_ms)
        self.answer_ms.append(answer_ms)


@contextmanager
def started(served: ServedModel, *, seconds: float) -> Iterator[RuntimeAlone]:
    """Start the process for a model; each of its medians is taken over `seconds` seconds."""
    folder = served.folder
    np.savez(folder / INPUTS, **served.inputs)
    (folder / TASK_REQUEST).write_text(json.dumps(served.task_request))
    command = [sys.executable, __file__, str(folder), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield RuntimeAlone(process)
        finally:
            process.stdin.close()


def _main(folder: Path, seconds: float) -> None:
    model = Model.open(folder, manifests.decode((folder / manifests.MANIFEST_NAME).read_bytes()))
    request = json.loads((folder / TASK_REQUEST).read_text())
    with np.load(folder / INPUTS) as saved:
        inputs = {name: saved[name] for name in saved.files}
    for _ in sys.stdin:
        run_ms = _median_ms(lambda: model.session.run(inputs), seconds)
        answer_ms = _median_ms(lambda: model.predict(model.parse(request)), seconds)
        print(json.dumps([run_ms, answer_ms]), flush=True)


def _median_ms(work: Callable[[], object], seconds: float) -> float:
    times_ms, until_s = [], time.perf_counter() + seconds
    while not times_ms or time.perf_counter() < until_s:
        begun_s = time.perf_counter()
        work()
        times_ms.append((time.perf_counter() - begun_s) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]))

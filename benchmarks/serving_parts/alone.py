"""The runtime alone, in a process of its own: `alone.py FOLDER` says the medians when it is asked to.

They are of the session's run on tensors, and of the whole way from what a task is asked to its answer.
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
    from serving_parts.served import Served

INPUTS: Final = "inputs.npz"
ASKED: Final = "asked.json"
MEASURE_S: Final = 0.5


@dataclass
class Alone:
    """The process, and what it has said: medians of the session's run, and of an answer to a task's request."""

    process: subprocess.Popen[str]
    run_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Time both."""
        self.process.stdin.write("\n")
        run_ms, answer_ms = json.loads(self.process.stdout.readline())
        self.run_ms.append(run_ms)
        self.answer_ms.append(answer_ms)


@contextmanager
def started(served: Served) -> Iterator[Alone]:
    """The process for a model."""
    folder = served.folder
    np.savez(folder / INPUTS, **served.inputs)
    (folder / ASKED).write_text(json.dumps(served.asked))
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield Alone(process)
        finally:
            process.stdin.close()


def _main(folder: Path) -> None:
    model = Model.open(folder, manifests.decode((folder / manifests.MANIFEST_NAME).read_bytes()))
    asked = json.loads((folder / ASKED).read_text())
    with np.load(folder / INPUTS) as saved:
        inputs = {name: saved[name] for name in saved.files}
    for _ in sys.stdin:
        run_ms = _median_ms(lambda: model.session.run(inputs))
        print(json.dumps([run_ms, _median_ms(lambda: model.predict(model.parse(asked)))]), flush=True)


def _median_ms(work: Callable[[], object]) -> float:
    times_ms, until = [], time.perf_counter() + MEASURE_S
    while time.perf_counter() < until:
        begun = time.perf_counter()
        work()
        times_ms.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

"""The session alone, in a process of its own: `alone.py FOLDER` says the median of its runs when it is asked to."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_core import manifest as manifests
from edgeml_runtime import engines

INPUTS: Final = "inputs.npz"
MEASURE_S: Final = 0.5


@dataclass
class Alone:
    """The process, and what it has said."""

    process: subprocess.Popen[str]
    medians_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Time the session."""
        self.process.stdin.write("run\n")
        self.medians_ms.append(float(self.process.stdout.readline()))

    @property
    def p50_ms(self) -> float:
        """The median of the medians."""
        return statistics.median(self.medians_ms)


@contextmanager
def started(folder: Path, inputs: dict[str, np.ndarray]) -> Iterator[Alone]:
    """The process, for a model's unpacked folder and one row of inputs."""
    np.savez(folder / INPUTS, **inputs)
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield Alone(process)
        finally:
            process.stdin.close()


def _main(folder: Path) -> None:
    manifest = manifests.decode((folder / manifests.MANIFEST_NAME).read_bytes())
    session = engines.load(folder / manifest.model, manifest, threads=manifest.runtime.threads)
    with np.load(folder / INPUTS) as saved:
        inputs = {name: saved[name] for name in saved.files}
    for _ in sys.stdin:
        print(_median_ms(session, inputs), flush=True)


def _median_ms(session: engines.Session, inputs: dict[str, np.ndarray]) -> float:
    times_ms, until = [], time.perf_counter() + MEASURE_S
    while time.perf_counter() < until:
        begun = time.perf_counter()
        session.run(inputs)
        times_ms.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

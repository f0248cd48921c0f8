"""Time `edgeml --help` and `import edgeml` against a Python that does nothing, each as a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from harness import host
from harness.figures import Figure, Run, most

#: Processes of each kind, full and quick; the first is not counted, because it fills the file cache.
RUNS: Final = 21
QUICK_RUNS: Final = 3
IMPORT_AIM: Final = most(60)
NOTHING: Final = "python -c pass"
HELP: Final = "edgeml --help"
IMPORT: Final = "import edgeml"
COMMANDS: Final = {NOTHING: ["-c", "pass"], HELP: ["-m", "edgeml", "--help"], IMPORT: ["-c", "import edgeml"]}


def figures(run: Run) -> Iterator[Figure]:
    """Yield the times in ms and their ratio to those of a Python that does nothing."""
    times_ms: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with host.watching() as watch:
        for _ in range(run.size(RUNS, QUICK_RUNS)):
            for name, arguments in COMMANDS.items():
                times_ms[name].append(_process_ms(arguments))
    sides = {name: statistics.median(values[1:]) for name, values in times_ms.items()}
    for name, aim in ((HELP, None), (IMPORT, IMPORT_AIM)):
        yield Figure(
            name=f"`{name}`", value=sides[name], unit="ms", sides=sides, sides_unit="ms", host=watch.load, aim=aim
        )
    ratio = sides[HELP] / sides[NOTHING]
    yield Figure(name=f"`{HELP}` against a Python that does nothing", value=ratio, unit="x", host=watch.load)


def _process_ms(arguments: list[str]) -> float:
    """Return the wall time of one process."""
    begun_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun_s) * 1000

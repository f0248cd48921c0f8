"""How long `edgeml --help` takes, against a Python that does nothing: both as whole processes, in turn, in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Final

RUNS: Final = 20
COMMANDS: Final = {"python -c pass": ["-c", "pass"], "edgeml --help": ["-m", "edgeml", "--help"]}


def milliseconds(arguments: list[str]) -> float:
    """The wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Print the medians and their ratio."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(milliseconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:16} {median:6.1f} ms")
    print(f"ratio            {medians['edgeml --help'] / medians['python -c pass']:6.1f}")


if __name__ == "__main__":
    main()

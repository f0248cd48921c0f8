"""What serving costs, measured beside others in the same run: `python benchmarks/serving.py [PART]...`.

    race      an echo model and MiniLM int8: the agent beside MLServer, KServe's Python server and LitServe
    costs     memory, time until it is ready, CPU when it is asked a little, `/health` when it is asked much
    swaps     fifty swaps under load: failed or wrong answers, memory afterwards
    overload  four times its capacity for a minute: latency, refusals, what comes of obeying them, memory
    leaving   clients that leave: how soon their work is given up

It needs wrk (`apt-get install wrk`) and makes an environment for each of the others below `.venv-rivals`, once;
`--models FOLDER` keeps the exported MiniLM. At the end what was found stands beside what was aimed at.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PARTS: Final = ("race", "costs", "swaps", "overload", "leaving")


def main() -> None:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--models", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models, rows, other_cores = options.models or Path(folder) / "models", [], []
        table = importlib.import_module("serving_parts.table")
        for part in options.parts:
            module = importlib.import_module(f"serving_parts.{part}")
            other_cores += table.look()
            rows += module.run(Path(folder), models)
        table.show(rows, other_cores)


if __name__ == "__main__":
    main()

"""The agent of this checkout beside that of another one, in turns: `python benchmarks/against.py CHECKOUT`.

Both serve the same echo model and MiniLM from the same bundles. Each round loads one after the other, with one
connection and with sixteen, and swaps their order. A ratio is the median of the ratios round by round. It needs wrk.
`make bench` doesn't run it, because it needs another checkout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import host, program, report
from harness.figures import Figure, Run
from harness.report import ProgramReport

if TYPE_CHECKING:
    from serving_parts.servers import Entrant

PACKAGES: Final = ("core", "sdk", "agent", "tests")
ROUNDS: Final = 9
TURN_S: Final = 2
THIS: Final = "this checkout"
OTHER: Final = "the other checkout"


def main() -> None:
    """Compare this checkout with the one named, and print a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="keep the exported model there, and reuse it")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one round with a tiny encoder instead of MiniLM")
    options = parser.parse_args()
    program.prepare()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgeml-against-") as temporary:
        folder = Path(temporary)
        models = (options.models or folder / "models").resolve()
        models.mkdir(parents=True, exist_ok=True)
        run = Run(folder=folder, models=models, is_quick=options.quick, parts=())
        checkouts = {THIS: program.ROOT, OTHER: options.checkout.resolve()}
        outcomes = tuple(_figures(run, checkouts, run.size(options.rounds, 1)))
    found = ProgramReport(name="against", seconds=time.monotonic() - begun_s, outcomes=outcomes)
    print(report.markdown(report.of([found], is_quick=options.quick)))


def _figures(run: Run, checkouts: dict[str, Path], rounds: int) -> Iterator[Figure]:
    from serving_parts.served_models import echo, minilm  # noqa: PLC0415 - it needs the path that `prepare` sets
    from serving_parts.servers import Entrant  # noqa: PLC0415
    from support import lone_agents  # noqa: PLC0415

    for served in (echo(run.folder), minilm(run.folder, run)):
        with ExitStack() as stack:
            servers = {}
            for name, checkout in checkouts.items():
                folder = run.folder / f"{served.name}-{name.replace(' ', '-')}"
                folder.mkdir()
                with _packages_of(checkout):
                    servers[name] = stack.enter_context(lone_agents.running(folder, [served.bundle]))
            for api, endpoint in (("Open Inference JSON", served.protocol), ("task", served.task)):
                sides = [Entrant(name=name, server=it, endpoint=endpoint) for name, it in servers.items()]
                watch = host.Watch()
                for number in range(rounds):
                    for side in sides if number % 2 else sides[::-1]:
                        side.measure(run.folder, TURN_S)
                    watch.lap()
                yield from _ratios(f"{served.name}, {api}", sides, watch)


def _ratios(title: str, sides: Sequence[Entrant], watch: host.Watch) -> Iterator[Figure]:
    """Yield this checkout's values as multiples of the other's."""
    values = {
        ("throughput, 16 connections", "requests/s"): [[it.per_s for it in side.loaded] for side in sides],
        ("p50, 1 connection", "ms"): [[it.p50_ms for it in side.alone] for side in sides],
        ("CPU of a request, 16 connections", "us"): [side.cpu_us for side in sides],
    }
    for (what, unit), (these, others) in values.items():
        ratios = [one / other for one, other in zip(these, others, strict=True)]
        yield Figure(
            name=f"{title}: {what}, against {OTHER}",
            value=statistics.median(ratios),
            unit="x",
            sides={THIS: statistics.median(these), OTHER: statistics.median(others)},
            sides_unit=unit,
            host=watch.load,
            note=f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds",
        )


@contextmanager
def _packages_of(checkout: Path) -> Iterator[None]:
    """Let the processes that the block starts import edgeml's packages from a checkout."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(checkout / it) for it in PACKAGES)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


if __name__ == "__main__":
    sys.exit(main())

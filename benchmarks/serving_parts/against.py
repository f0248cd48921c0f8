"""The agent of this checkout beside that of another one, in turns: `against.py CHECKOUT [--models FOLDER]`.

Both serve the same echo model and MiniLM from the same bundles. Each round loads one after the other, with one
connection and with sixteen, and swaps their order. A ratio is the median of the ratios round by round: load on the
machine then falls on both. It needs wrk (`apt-get install wrk`); `--models` keeps the exported MiniLM.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("core", "sdk", "agent", "tests")
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    from serving_parts.load import Load
    from serving_parts.served import Door
    from support.server_processes import Server

ROUNDS: Final = 9
TURN_S: Final = 2
IN_FLIGHT: Final = 16


@dataclass(frozen=True, kw_only=True)
class Side:
    """One checkout's agent at one of its APIs, and its measurements round by round."""

    name: str
    server: Server
    door: Door
    one: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def measure(self, place: Path) -> None:
        """Load the agent with one connection, then with many; check an answer first."""
        from serving_parts import load  # noqa: PLC0415 - found on the path that is set above

        port, request = self.server.port, self.door.request
        self.door.check(load.answer(port, request))
        self.one.append(load.run(port, request, place, connections=1, seconds=TURN_S))
        before_s = self.server.cpu_s()
        self.many.append(load.run(port, request, place, connections=IN_FLIGHT, seconds=TURN_S))
        self.cpu_us.append((self.server.cpu_s() - before_s) / self.many[-1].requests * 1e6)


@contextmanager
def _packages_of(checkout: Path) -> Iterator[None]:
    """Processes started in the block import edgeml's packages from the checkout."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(checkout / it) for it in PACKAGES)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _compare(place: Path, models: Path, checkouts: Sequence[Path], *, rounds: int, only_echo: bool) -> None:
    from serving_parts.served import echo, minilm  # noqa: PLC0415 - see `Side.measure`
    from support import lone_agents  # noqa: PLC0415

    for served in (echo(place), *([] if only_echo else [minilm(place, models)])):
        with ExitStack() as stack:
            servers = []
            for name, checkout in zip(("this", "other"), checkouts, strict=True):
                folder = place / f"{served.name}-{name}"
                folder.mkdir()
                with _packages_of(checkout):
                    servers.append(stack.enter_context(lone_agents.running(folder, [served.bundle])))
            for api, door in (("/v2 infer", served.protocol), ("predict", served.task)):
                sides = [
                    Side(name=name, server=it, door=door) for name, it in zip(("this", "other"), servers, strict=True)
                ]
                for number in range(rounds):
                    for side in sides if number % 2 else sides[::-1]:
                        side.measure(place)
                _show(f"{served.name}, {api}", *sides)


def _show(what: str, this: Side, other: Side) -> None:
    print(what)
    for side in (other, this):
        per_s, p50_ms = _median(side.many, lambda it: it.per_s), _median(side.one, lambda it: it.p50_ms)
        cpu_us = statistics.median(side.cpu_us)
        print(f"  {side.name:6} {per_s:8.0f} requests/s at {IN_FLIGHT}, p50 alone {p50_ms:.3f} ms, CPU {cpu_us:.0f} us")
    throughput = _ratios(this.many, other.many, lambda it: it.per_s)
    latency = _ratios(this.one, other.one, lambda it: it.p50_ms)
    print(f"  this / other: throughput {throughput}, p50 alone {latency}", flush=True)


def _median(loads: Sequence[Load], value: Callable[[Load], float]) -> float:
    return statistics.median(map(value, loads))


def _ratios(these: Sequence[Load], others: Sequence[Load], value: Callable[[Load], float]) -> str:
    """The median of the ratios round by round, and their range."""
    found = [value(one) / value(other) for one, other in zip(these, others, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    """Compare this checkout with the one named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--echo", action="store_true", help="the echo model only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or Path(folder) / "models"
        _compare(
            Path(folder), models, (ROOT, options.checkout.resolve()), rounds=options.rounds, only_echo=options.echo
        )


if __name__ == "__main__":
    main()

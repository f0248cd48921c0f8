"""What holds for all tests: markers, their order, the size of a run, and short timing in exports."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

import hypothesis
import pytest

from edgeml.pipeline.request import ExportRequest, MeasuringBudget
from support import marks, scale

#: Each model still has its fewest runs: enough for a median, and no test looks closer unless it gives its own budget.
BRIEF = MeasuringBudget(paired_s=0.1, alone_s=0.1, turns_s=4.0)
#: Python modules that a library of some size brings.
MODULES_MIN: Final = 100
#: The number of Python modules whose objects are out of the garbage collector's sight.
FROZEN: Final = pytest.StashKey[int]()
#: Their counts are printed at the end of a run, also where other processes ran the tests.
CAMPAIGNS = ("faults.campaign", "fuzz.campaign")

# Each of several processes computes on one core: two threads in each would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy computer pauses any example for longer than hypothesis lets one take, by default.
hypothesis.settings.register_profile("edgeml", deadline=None)
hypothesis.settings.load_profile("edgeml")
# A shell that starts the tests in the background lets them, and so their children, ignore Ctrl-C: some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all tests, leave out those of the night by day, and bring the longest modules to the front."""
    for item in items:
        marks.mark(item)
    if not scale.IS_NIGHTLY:
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    first: dict[object, int] = {}
    for item in items:
        first[item.path] = min(first.get(item.path, len(marks.ORDER)), marks.rank(item))
    items.sort(key=lambda item: first[item.path])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker to the process that prints them."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output.update({name: sys.modules[name].dump() for name in CAMPAIGNS if name in sys.modules})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the counts of a worker that has ended."""
    for name, counts in getattr(node, "workeroutput", {}).items():
        if name in CAMPAIGNS:
            importlib.import_module(name).merge(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of the campaigns."""
    for module in (sys.modules[name] for name in CAMPAIGNS if name in sys.modules):
        title, *lines = module.summary() or [""]
        if title:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session", autouse=True)
def brief_timing() -> Iterator[None]:
    """Let exports of this process time models briefly, unless a request brings a budget of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ExportRequest.__init__.__kwdefaults__, "budget", BRIEF)
        yield


@pytest.fixture(scope="module", autouse=True)
def frozen_libraries(request: pytest.FixtureRequest) -> None:
    """Leave the objects of libraries out of further collections.

    The agent collects garbage after each model that it loads or closes. Beside PyTorch's objects that takes 0.3 s.
    """
    stash = request.config.stash
    if len(sys.modules) >= stash.get(FROZEN, 0) + MODULES_MIN:
        gc.collect()
        gc.freeze()
        stash[FROZEN] = len(sys.modules)

"""Which markers a test gets by where it lies and by what it uses, so that no test file has to repeat them.

`timing` and `nightly` depend on what a test claims: those stand beside the test.
"""

from __future__ import annotations

from typing import Final

import pytest

#: By the folder under `tests`.
FOLDERS: Final = {"browser": ("browser",), "faults": ("campaign", "broker"), "fuzz": ("campaign",)}
#: By fixture, directly or through another fixture.
FIXTURES: Final = {
    "arm64": ("emulated", "network"),
    "emulation_place": ("emulated", "network"),
    "checkout": ("network",),
}
#: By a module or one of its members among the globals of the test's module.
IMPORTS: Final = {
    "edgeml.pipeline.export": "export",
    "support.brokers": "broker",
    "support.other_brokers": "broker",
    "support.delivery_site": "broker",
    "support.relayed_site": "broker",
    "support.trained.comparison": "export",
    "support.trained.table": "network",
}
#: Longest first, so that two workers end at about the same time.
ORDER: Final = ("campaign", "emulated", "network", "export", "browser", "broker")


def mark(item: pytest.Item) -> None:
    """Add the markers of one test."""
    parts = item.path.relative_to(item.config.rootpath / "tests").parts
    found = {*FOLDERS.get(parts[0], ())}
    for fixture in getattr(item, "fixturenames", ()):
        found.update(FIXTURES.get(fixture, ()))
    found.update(_by_imports(item))
    for name in sorted(found):
        item.add_marker(name)


def rank(item: pytest.Item) -> int:
    """Return the place of a test's module in the order of a run."""
    return next((number for number, name in enumerate(ORDER) if item.get_closest_marker(name)), len(ORDER))


def _by_imports(item: pytest.Item) -> set[str]:
    module = getattr(item, "module", None)
    origins = {
        str(getattr(value, "__module__", None) or getattr(value, "__name__", None)).removeprefix("tests.")
        for value in vars(module).values()
    }
    return {name for origin, name in IMPORTS.items() if origin in origins}

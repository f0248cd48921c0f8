"""List the modules that no unit or property test imports: `python tests/support/untested_modules.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("core", "sdk", "agent")
TESTS: Final = ("tests/unit", "tests/property")


def modules() -> set[str]:
    """Return all modules of the project but those that only name a package."""
    paths = ((path, ROOT / package) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for path, folder in paths
        if path.name != "__init__.py" or len(path.read_text().splitlines()) > 1
    }


def imported(path: Path) -> Iterator[str]:
    """Yield what a test file imports: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def untested() -> list[str]:
    """Return the modules that no unit or property test imports."""
    paths = (path for folder in TESTS for path in (ROOT / folder).rglob("*.py"))
    named = {name for path in paths for name in imported(path)}
    return sorted(modules() - named)


if __name__ == "__main__":
    found = untested()
    print(f"{len(found)} of {len(modules())} modules are imported by no unit test:", *found, sep="\n")

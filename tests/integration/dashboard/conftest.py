"""The application over a small fleet: one for all tests of a module, and a copy for each test that changes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import dashboard_fleet
from support.dashboard_app import Site


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of all tests here."""
    repo = tmp_path_factory.mktemp("dashboard") / "repo"
    dashboard_fleet.make(repo)
    return repo


@pytest.fixture(scope="module")
def shared(made: Path) -> Iterator[Site]:
    """A site that no test changes."""
    with dashboard_fleet.registry_of(made) as registry:
        yield Site(made, registry, dashboard_fleet.add_accounts(made, registry))


@pytest.fixture
def site(made: Path, shared: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of it for one test, with the same accounts."""
    shutil.copytree(made, tmp_path / "repo")
    with dashboard_fleet.registry_of(tmp_path / "repo") as registry:
        yield Site(tmp_path / "repo", registry, shared.tokens)

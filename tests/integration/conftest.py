"""What several integration tests share: the emulated root, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeml import targets
from edgeml.proof import root
from edgeml.proof.prepare import prepare


@pytest.fixture(scope="session")
def emulation_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the Pis' root was made, as `edgeml target prepare rpi4` makes it."""
    place = tmp_path_factory.mktemp("emulation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(root.PLACE_VARIABLE, str(place))
        assert prepare(targets.load("rpi4")) is not None
    return place


@pytest.fixture(scope="module")
def arm64(emulation_place: Path) -> Iterator[Path]:
    """The root itself; while a module's tests run, the environment tells where it lies, as an operator would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(root.PLACE_VARIABLE, str(emulation_place))
        yield root.folder(targets.load("rpi4").cpu.arch)

"""What several integration tests share, made once: the emulated root, a tiny language model that chats."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from edgeml import targets
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml.verify.emulation import sysroot
from edgeml.verify.emulation.prepare import prepare
from oracle import architectures
from support import cache, sounds, tiny_calls, tiny_chat, tiny_recognizer, tiny_whisper
from support import minilm as minilm_bundles


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents leave releases as they were exported: a sweep beside each of them would slow all others."""
    monkeypatch.setenv("EDGEML_SERVE_TUNE", "false")


@pytest.fixture(scope="session")
def emulation_place() -> Path:
    """Return the folder with the Pis' root, as `edgeml target prepare rpi4` makes it; the test cache keeps it."""
    with cache.kept("emulation", lambda _: None) as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv(sysroot.PLACE_VARIABLE, str(place))
        assert prepare(targets.load("rpi4")) is not None  # at once where a root is there: nothing writes to it again
    return place


def _example_data(name: str) -> Path:
    """Return the folder that an example's program writes; the test cache keeps it. Nothing may be written there."""
    program = cache.ROOT / "examples" / f"{name}.py"

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, program, folder], check=True, capture_output=True)

    with cache.kept(f"example-{name}", make, [program]) as folder:
        return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the real sentence encoder's folder."""
    return minilm_bundles.model_folder()


@pytest.fixture(scope="session")
def minilm_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Exported], list[str]]:
    """Return MiniLM's bundles for its targets in both formats, and the steps of their export."""
    return minilm_bundles.exported_once(_session(tmp_path_factory))


def _session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of a test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def bundles(minilm_export: tuple[list[Exported], list[str]]) -> list[Exported]:
    """Return MiniLM's bundles."""
    return minilm_export[0]


@pytest.fixture(scope="session")
def steps(minilm_export: tuple[list[Exported], list[str]]) -> list[str]:
    """Return the steps of their export."""
    return minilm_export[1]


@pytest.fixture(scope="session")
def digits() -> Path:
    """Return the folder with the example's rows to calibrate and to evaluate on."""
    return _example_data("digits")


@pytest.fixture(scope="session")
def triage() -> Path:
    """Return the folder with the example's trained text classifier and its rows."""
    return _example_data("triage")


@pytest.fixture(scope="session")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of the tiny model that chats, and its bundle in fp32."""
    return _trained("chat", (tiny_chat,), _session(tmp_path_factory), quantize="none")


@pytest.fixture(scope="session")
def calling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of the tiny model that calls tools, and its bundle in fp32."""
    return _trained("calls", (tiny_calls, tiny_chat), _session(tmp_path_factory), quantize="none")


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of the tiny Whisper, and its bundle in int8; export has asked the oracle about the one in fp32."""
    return _trained("whisper", (tiny_whisper, sounds), _session(tmp_path_factory))


@pytest.fixture(scope="session")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of the tiny wav2vec 2.0 that spells numbers, and its bundle in int8."""
    return _trained("spelling", (tiny_recognizer, tiny_whisper, sounds), _session(tmp_path_factory))


def _trained(name: str, programs: Sequence[ModuleType], session: Path, **options: Any) -> tuple[Path, Exported]:
    """Train a model by the first program, unless the test cache has it, and export it once in a session."""
    sources = [Path(str(it.__file__)) for it in programs]
    with cache.kept(name, lambda place: programs[0].pretrained(place / name), sources) as place:
        model = place / name
    request = ExportRequest(
        model=str(model), targets=("x86-vnni",), formats=("onnx",), output=session / name, **options
    )
    bundle = request.output / f"{name}-1-x86-vnni-onnx.edgeml"
    with FileLock(session / f"{name}.lock"):
        if not bundle.exists():
            export(request)
    return model, minilm_bundles.read(bundle)


@pytest.fixture(scope="module")
def arm64(emulation_place: Path) -> Iterator[Path]:
    """The root itself; while a module's tests run, the environment tells where it lies, as an operator would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sysroot.PLACE_VARIABLE, str(emulation_place))
        yield sysroot.folder(targets.load("rpi4").cpu.arch)


@pytest.fixture(scope="session")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of a tiny wav2vec 2.0 with random weights, which spells sounds somehow, and its bundle in fp32."""
    session = _session(tmp_path_factory)
    model = session / "recognizer"
    request = ExportRequest(
        model=str(model), targets=("x86-vnni",), formats=("onnx",), quantize="none", output=session / "recognizing"
    )
    bundle = request.output / "recognizer-1-x86-vnni-onnx.edgeml"
    with FileLock(session / "recognizing.lock"):
        if not bundle.exists():
            architectures.build("wav2vec2", architectures.SPEECH, model)
            export(request)
    return model, minilm_bundles.read(bundle)

"""The port to the runtimes: which are installed, whether one suffices, and a model loaded in it.

Each runtime has one adapter module, imported only when a model needs it; nothing here imports a runtime.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.manifest import Engine, Manifest, RuntimeNeeds

if TYPE_CHECKING:
    from edgeml_runtime.tensors import Array

#: The distributions of each engine, the preferred one first. tflite-runtime is LiteRT under its old name. Its versions
#: follow TensorFlow's, so the golden cases and not the number decide whether it is good enough.
DISTRIBUTIONS: Final[dict[Engine, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime",),
    "litert": ("ai-edge-litert", "tflite-runtime"),
}
#: The extra that installs each engine on a device.
EXTRAS: Final[dict[Engine, str]] = {"onnxruntime": "agent", "litert": "tflite"}
#: A run of a model: its outputs by name, from arrays by name.
Run: TypeAlias = "Callable[[Mapping[str, Array]], dict[str, Array]]"
#: Arrays that a run changes, by input name, each with the output that replaces it.
Bound: TypeAlias = "Mapping[str, tuple[str, Array]]"
_RELEASE: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})*")


class OperatorRun(NamedTuple):
    """One operator that a runtime ran, after its own fusion.

    Attributes:
        operator: its name.
        inputs: data type and shape of each input that isn't packed.
        output: the shape of the first output.
        constant_bytes: of those inputs, the bytes of constant ones.
    """

    operator: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    output: tuple[int, ...]
    constant_bytes: int


class Session(Protocol):
    """A model loaded in its runtime. One thread at a time may call `run`."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model.

        Args:
            inputs: arrays by name, of the model's data types and shapes.

        Returns:
            The outputs by name.

        Raises:
            DeviceError: `runtime-failed`, when the runtime refuses or fails.
            UsageError: `input-invalid`, when the model has no variant for these shapes.
        """
        ...

    def close(self) -> None:
        """Free the model; `run` must not be called after it."""
        ...


@runtime_checkable
class InPlaceSession(Session, Protocol):
    """A session of a runtime that writes outputs into the memory of inputs."""

    def bind(self, bound: Bound) -> Run:
        """Return a run that writes outputs into `bound`, whose arrays are inputs at the same time.

        The run takes the other inputs and returns the other outputs. It raises as `run` does.
        """
        ...


def bind(session: Session, bound: Bound) -> Run:
    """Return a run of the model that writes outputs into `bound`, whose arrays are inputs at the same time.

    Raises:
        RejectedError: `bundle-format`, when the runtime can't do so.
    """
    if not isinstance(session, InPlaceSession):
        raise RejectedError("bundle-format", "the model writes its cache in place, which its runtime can't do")
    return session.bind(bound)


def installed() -> dict[Engine, str]:
    """Read the versions of the installed runtimes from package metadata; nothing is imported."""
    found: dict[Engine, str] = {}
    for engine, distributions in DISTRIBUTIONS.items():
        for distribution in reversed(distributions):
            try:
                found[engine] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
    return found


def check_runtime(needs: RuntimeNeeds) -> None:
    """Check that the runtime a bundle needs is installed here.

    Raises:
        DeviceError: `runtime-missing`, when it is absent, too old or a version known to be bad.
        RejectedError: `bundle-format`, when the bundle's own version numbers can't be read.
    """
    remedy = f"pip install --upgrade 'edgeml-deploy[{EXTRAS[needs.engine]}]' on this machine"
    version = installed().get(needs.engine)
    if version is None:
        raise DeviceError("runtime-missing", f"{needs.engine} is not installed", remedy)
    if _is_older(version, needs.min_version):
        raise DeviceError(
            "runtime-missing", f"{needs.engine} {version} is older than the {needs.min_version} needed", remedy
        )
    if any(not _is_older(version, bad) and not _is_older(bad, version) for bad in needs.bad_versions):
        raise DeviceError("runtime-missing", f"{needs.engine} {version} is known to fail for this bundle", remedy)


def load(path: Path, manifest: Manifest, *, threads: int | None = None) -> Session:
    """Load a model file in the runtime that its manifest names.

    Args:
        path: the file; external weights lie beside it.
        manifest: gives the runtime, its options and threads.
        threads: instead of the manifest's number; the cores that this process may use bound both.

    Raises:
        DeviceError: `runtime-missing` (see `check_runtime`); `runtime-failed`, when the runtime can't load the file.
        RejectedError: `bundle-format`, when the manifest asks for an option that is not allowed.
    """
    check_runtime(manifest.runtime)
    count = thread_count(manifest, threads)
    match manifest.runtime.engine:
        case "onnxruntime":
            from edgeml_runtime.engines.ort import OrtSession  # noqa: PLC0415 -- loaded only for its own models

            return OrtSession(path, manifest.runtime.options, threads=count)
        case "litert":
            from edgeml_runtime.engines.litert import LiteRtSession  # noqa: PLC0415 -- loaded only for its own models

            return LiteRtSession(path, manifest.runtime.options, threads=count)


def prepare(path: Path, target: Path, manifest: Manifest) -> bool:
    """Write the model with its weights packed for this CPU, so that a load maps them instead of packing them.

    Args:
        path: the model file.
        target: the new model file; its weights lie beside it.
        manifest: the bundle's.

    Returns:
        Whether the runtime can write packed weights.

    Raises:
        DeviceError: `runtime-failed`.
    """
    if manifest.runtime.engine != "onnxruntime":
        return False
    from edgeml_runtime.engines import ort  # noqa: PLC0415 -- loaded only for its own models

    ort.prepare(path, target, manifest.runtime.options)
    return True


def profile(path: Path, manifest: Manifest, use: Callable[[Session], object]) -> list[OperatorRun] | None:
    """Load a model, run it, and list the operators of its last run in their order.

    Args:
        path: the model file.
        manifest: the bundle's.
        use: runs the model.

    Returns:
        None for a runtime without a profile.

    Raises:
        DeviceError: `runtime-missing` or `runtime-failed`.
    """
    if manifest.runtime.engine != "onnxruntime":
        return None
    check_runtime(manifest.runtime)
    from edgeml_runtime.engines import ort  # noqa: PLC0415 -- loaded only for its own models

    return ort.profile(path, manifest.runtime.options, use)


def thread_count(manifest: Manifest, requested: int | None) -> int:
    """Count a model's threads: the requested number or else its manifest's, at most the cores of this process."""
    return max(1, min(requested or manifest.runtime.threads, len(os.sched_getaffinity(0))))


def _is_older(version: str, than: str) -> bool:
    pairs = zip_longest(_release(version), _release(than), fillvalue=0)
    return next((have < want for have, want in pairs if have != want), False)


def _release(version: str) -> tuple[int, ...]:
    """Parse the numbers at the start of a version: pre-releases and local builds count as their release."""
    found = _RELEASE.match(version)
    if found is None:
        raise RejectedError("bundle-format", f"runtime version {version!r} is not a version number")
    return tuple(int(part) for part in found[0].split("."))

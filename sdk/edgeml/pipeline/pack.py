"""A checked model becomes a bundle: manifest, card and files in one deterministic file, the measurements beside it.

The manifest is drafted before the checks, which open the model with it as a device would, and completed after them.
Nothing in it depends on when or where it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edgeml.check.checks import Findings
from edgeml.exporters.source import Built, Source
from edgeml_core import __version__, bundle, golden
from edgeml_core import manifest as manifests
from edgeml_core.card import Card, Parity
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import ENGINES, CpuNeeds, Format, Golden, Manifest, Needs, Provenance, RuntimeNeeds
from edgeml_core.profile import Profile
from edgeml_runtime.tensors import from_data

#: The distributions that decide what each format's files are, for the manifest's provenance.
_TOOLS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("onnx", "optimum-onnx", "onnxruntime"),
    "tflite": ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
}
_UNMEASURED: Final = Parity(against="", rows=0, max_abs=0.0, cosine=0.0)


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a bundle is called."""

    name: str
    version: str


def draft(model: Built, source: Source, profile: Profile, release: Release) -> Manifest:
    """The manifest of a model that is yet to be checked: its files, golden cases and card are still empty."""
    setup = profile.engines[ENGINES[model.file_format]]
    return Manifest(
        format=manifests.FORMAT,
        name=release.name,
        version=release.version,
        target=profile.name,
        task=source.task,
        cpu=CpuNeeds(arch=profile.cpu.arch, features=profile.cpu.needs),
        runtime=RuntimeNeeds(
            engine=ENGINES[model.file_format],
            min_version=setup.min_version,
            bad_versions=tuple(sorted(setup.bad_versions)),
            threads=setup.threads,
            options=setup.options,
        ),
        model=model.model,
        files=(),
        inputs=model.signature.inputs,
        outputs=model.signature.outputs,
        preprocess=model.signature.preprocess,
        postprocess=model.signature.postprocess,
        golden=Golden(path=golden.GOLDEN_NAME, cases=0, min_cosine=setup.golden.min_cosine, max_abs=0.0),
        needs=Needs(ram_bytes=0, disk_bytes=0),
        card=Card(recipe=model.recipe, size_bytes=model.size_bytes, baseline_size_bytes=0, parity=_UNMEASURED),
        provenance=Provenance(source_sha256=source.sha256, tools=_tools(model, source)),
    )


def complete(manifest: Manifest, profile: Profile, findings: Findings) -> Manifest:
    """The manifest with its card, its needs, and its golden cases bounded as the target's engine allows."""
    bounds, cases = profile.engines[manifest.runtime.engine].golden, findings.cases
    return msgspec.structs.replace(
        manifest,
        card=findings.card,
        needs=msgspec.structs.replace(manifest.needs, ram_bytes=findings.ram_bytes),
        golden=msgspec.structs.replace(
            manifest.golden, cases=len(cases), max_abs=float(f"{bounds.max_relative * _largest(cases):.4g}")
        ),
    )


def sealed(manifest: Manifest, model: Built, cases: tuple[GoldenCase, ...]) -> Manifest:
    """The manifest with its files listed; the golden cases are written beside the model's for that."""
    (model.folder / golden.GOLDEN_NAME).write_bytes(golden.encode(cases))
    with _opened(model.folder) as files:
        entries = tuple(bundle.describe(name, content) for name, content in files.items())
    size_bytes = sum(entry.size_bytes for entry in entries)
    return msgspec.structs.replace(
        manifest, files=entries, needs=msgspec.structs.replace(manifest.needs, disk_bytes=size_bytes)
    )


def write(manifest: Manifest, model: Built, folder: Path) -> Path:
    """Write the bundle of a sealed manifest into `folder`.

    Returns:
        Its path.
    """
    path = folder / f"{manifest.stem}{bundle.BUNDLE_SUFFIX}"
    with _opened(model.folder) as files, path.open("wb") as destination:
        bundle.write(destination, manifest, files)
    return path


@contextmanager
def _opened(folder: Path) -> Iterator[dict[str, BinaryIO]]:
    with ExitStack() as stack:
        yield {path.name: stack.enter_context(path.open("rb")) for path in sorted(folder.iterdir())}


def _tools(model: Built, source: Source) -> dict[str, str]:
    found = {name: metadata.version(name) for name in _TOOLS[model.file_format]}
    return {"edgeml": __version__, **source.tools, **found}


def _largest(cases: tuple[GoldenCase, ...]) -> float:
    """The largest absolute value of any golden output."""
    arrays = [from_data(tensor) for case in cases for tensor in case.outputs.values()]
    return max((float(abs(array).max()) for array in arrays if array.size), default=0.0)

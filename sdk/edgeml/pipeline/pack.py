"""A checked model becomes a bundle: manifest, card and files in one deterministic file.

The checks open the model with a manifest, too, as a device would. Nothing in a manifest depends on the time or the
machine of the export.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Final

from edgeml.check.checks import Findings
from edgeml.exporters.source import Built, Source
from edgeml_core import __version__, bundle, golden
from edgeml_core import manifest as manifests
from edgeml_core.card import Card, Parity
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import ENGINES, CpuNeeds, FileEntry, Format, Golden, Manifest, Needs, Provenance, RuntimeNeeds
from edgeml_core.profile import Profile
from edgeml_runtime.verify import golden as golden_check

#: The distributions that decide what each format's files are, for the manifest's provenance.
_TOOLS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("onnx", "optimum-onnx", "onnxruntime"),
    "tflite": ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
}
#: Significant digits of bounds; more would differ between runs.
_UNMEASURED: Final = Parity(against="", rows=0, max_abs=0.0, cosine=0.0)


@dataclass(frozen=True, kw_only=True)
class Release:
    """The name and version of a bundle."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Build:
    """A model for one target of one release. `manifest` is the only maker of manifests.

    Args:
        model: in its folder, with its assets.
        source: the model that it was exported from.
        profile: the target.
        release: name and version.
    """

    model: Built
    source: Source
    profile: Profile
    release: Release

    def manifest(self, findings: Findings | None = None, card: Card | None = None) -> Manifest:
        """The manifest, for the checks or for the bundle.

        Args:
            findings: of the checks. None gives the manifest that the checks open the model with: without files, golden
                cases and figures. Otherwise the golden cases are written beside the model, and all files are listed.
            card: instead of the findings' own.
        """
        cases = findings.cases if findings else ()
        files = self._files(cases) if findings else ()
        engine = ENGINES[self.model.file_format]
        setup = self.profile.engines[engine]
        return Manifest(
            format=manifests.FORMAT,
            name=self.release.name,
            version=self.release.version,
            target=self.profile.name,
            task=self.source.task,
            cpu=CpuNeeds(arch=self.profile.cpu.arch, features=self.profile.cpu.needs),
            runtime=RuntimeNeeds(
                engine=engine,
                min_version=setup.min_version,
                bad_versions=tuple(sorted(setup.bad_versions)),
                threads=setup.threads,
                options=setup.options,
            ),
            model=self.model.model,
            files=files,
            inputs=self.model.signature.inputs,
            outputs=self.model.signature.outputs,
            preprocess=self.model.signature.preprocess,
            postprocess=self.model.signature.postprocess,
            golden=Golden(
                path=golden.GOLDEN_NAME,
                cases=len(cases),
                min_cosine=setup.golden.min_cosine,
                max_abs=golden_check.bound(cases, setup.golden.max_relative),
            ),
            needs=Needs(
                ram_bytes=findings.ram_bytes if findings else 0, disk_bytes=sum(entry.size_bytes for entry in files)
            ),
            card=card or (findings.card if findings else self._unmeasured),
            provenance=Provenance(source_sha256=self.source.sha256, tools=_tools(self.model, self.source)),
        )

    @property
    def _unmeasured(self) -> Card:
        size_bytes = self.model.size_bytes
        return Card(recipe=self.model.recipe, size_bytes=size_bytes, baseline_size_bytes=0, parity=_UNMEASURED)

    def _files(self, cases: tuple[GoldenCase, ...]) -> tuple[FileEntry, ...]:
        (self.model.folder / golden.GOLDEN_NAME).write_bytes(golden.encode(cases))
        with _opened(self.model.folder) as files:
            return tuple(bundle.describe(name, content) for name, content in files.items())


def write(manifest: Manifest, model: Built, folder: Path) -> Path:
    """Write the bundle of a manifest that lists its files into `folder`.

    Returns:
        The bundle's path.
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

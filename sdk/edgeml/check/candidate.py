"""A candidate: a model for one target, opened with a manifest as on the device."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from edgeml.exporters.source import Built, Signature, Source
from edgeml_core.manifest import Manifest
from edgeml_core.processing import AudioInput, Preprocess, TextInput
from edgeml_core.profile import Profile
from edgeml_runtime.inputs import preparer
from edgeml_runtime.model import Model

#: Threads; one thread adds in one order, so that golden outputs are the same after every export.
THREADS: Final = 1


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A quantized model, the fp32 model that it was made from, and the manifest that the checks open it with."""

    model: Built
    fp32: Built
    profile: Profile
    manifest: Manifest

    @property
    def key(self) -> Hashable:
        """Equal for candidates with equal answers: the same file in the same runtime with the same options."""
        runtime = self.manifest.runtime
        return self.model.path, runtime.engine, tuple(sorted(runtime.options.items()))


@contextmanager
def open_candidate(candidate: Candidate) -> Iterator[Model]:
    """Load the candidate's model in its runtime.

    Raises:
        DeviceError: `runtime-failed`, when the runtime can't load it.
    """
    with opened(candidate.model, candidate.manifest) as model:
        yield model


@contextmanager
def open_fp32(candidate: Candidate) -> Iterator[Model]:
    """Load the fp32 form that the candidate was made from, in the same runtime."""
    with opened(candidate.fp32, candidate.manifest) as model:
        yield model


@contextmanager
def opened(built: Built, manifest: Manifest) -> Iterator[Model]:
    """Load a model in its runtime; see `open_candidate`."""
    model = Model.open(built.folder, manifest, threads=THREADS, path=built.path)
    try:
        yield model
    finally:
        model.close()


def open_original(source: Source, candidate: Candidate, *, cut: bool) -> Model:
    """Put the original behind the candidate's pre- and postprocessing.

    Args:
        source: the original.
        candidate: gives the files and the processing.
        cut: whether texts and sounds are cut at the candidate's length; otherwise at the original's.
    """
    signature = _cut(source.signature, candidate.model.signature) if cut else source.signature
    manifest = msgspec.structs.replace(
        candidate.manifest,
        inputs=signature.inputs,
        outputs=signature.outputs,
        preprocess=signature.preprocess,
        postprocess=signature.postprocess,
    )
    return Model(source.original, manifest, preparer(candidate.model.folder, manifest))


def _cut(signature: Signature, like: Signature) -> Signature:
    preprocess: Preprocess
    match signature.preprocess, like.preprocess:
        case TextInput() as own, TextInput() as other:
            preprocess = msgspec.structs.replace(own, max_length=other.max_length)
        case AudioInput() as own, AudioInput() as other:
            preprocess = msgspec.structs.replace(own, max_samples=other.max_samples)
        case _:
            return signature
    return replace(signature, preprocess=preprocess)

"""Versions of a bundle whose weights differ a little from each other, made in moments and without any training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgeml_core import bundle, chunks
from edgeml_core.bundle import BundleReader
from edgeml_core.manifest import Needs
from support.tiny_models import WEIGHTS_NAME, tiny_onnx_bundle

#: One chunk in this number differs between versions: an update that leaves most of a model alone.
CHUNKS_APART: Final = 8
#: One byte in this number differs within such a chunk, as after a brief training.
BYTES_APART: Final = 20
#: Memory that the bundle states, as a multiple of its weights: what a runtime needs while it loads them.
RAM_PER_BYTE: Final = 3


def bundles(folder: Path, versions: tuple[str, ...], weights_bytes: int) -> dict[str, Path]:
    """Write one bundle for each version, with incompressible weights of that length."""
    drawn, made = folder / "drawn.edgeml", {version: folder / f"{version}.edgeml" for version in versions}
    tiny_onnx_bundle(drawn, weights_bytes=weights_bytes)
    for moved, (version, path) in enumerate(made.items()):
        _write(drawn, path, version=version, moved=moved, weights_bytes=weights_bytes)
    return made


def _write(drawn: Path, path: Path, *, version: str, moved: int, weights_bytes: int) -> None:
    with drawn.open("rb") as source, path.open("wb") as out:
        reader = BundleReader(source)
        files = {it.path: io.BytesIO(b"".join(reader.chunks(it))) for it in reader.manifest.files}
        weights = np.frombuffer(files[WEIGHTS_NAME].getbuffer(), np.uint8)
        for start in range(0, len(weights), CHUNKS_APART * chunks.CHUNK_BYTES):
            weights[start : start + chunks.CHUNK_BYTES : BYTES_APART] += moved
        entries = tuple(bundle.describe(name, content) for name, content in files.items())
        needs = Needs(ram_bytes=RAM_PER_BYTE * weights_bytes, disk_bytes=weights_bytes)
        bundle.write(out, msgspec.structs.replace(reader.manifest, version=version, files=entries, needs=needs), files)

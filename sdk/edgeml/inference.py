"""A bundle run by the device's code (`edgeml_runtime`): on this host, as an emulated CPU, or on a machine by ssh."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeml import emulation, remote, targets
from edgeml.proofs import Proof
from edgeml_core import golden as cases
from edgeml_runtime import engines, golden
from edgeml_runtime.golden import GoldenResult
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer
from edgeml_runtime.unpacked import unpacked

EMULATED: Final = "emulated"


def run(bundle: Path, request: object) -> list[Answer]:
    """Answer one request, or each of a list, in order.

    Args:
        bundle: a `.edgeml` file.
        request: a decoded JSON value, as `POST /v1/models/NAME/predict` takes it.

    Raises:
        UsageError: `input-invalid`. RejectedError: the bundle is malformed. DeviceError: no runtime, or it failed.
    """
    with unpacked(bundle) as opened:
        model = Model.open(opened.folder, opened.manifest)
        try:
            return model.predict(model.parse(request))
        finally:
            model.close()


def verify_elsewhere(bundle: Path, on: str) -> Proof:
    """Check every byte of a bundle and reproduce its golden outputs on another CPU.

    Args:
        bundle: a `.edgeml` file.
        on: `emulated` for the target's CPU, or `ssh://HOST`.

    Raises:
        UsageError: `emulation-missing`, or `on` is neither. RejectedError: the bundle is malformed or damaged.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime failed. TransportError: `host-unreachable`.
    """
    with unpacked(bundle) as opened:
        if on == EMULATED:
            return emulation.prove(opened.folder, opened.manifest, targets.load(opened.manifest.target), ())
        return remote.prove(opened.folder, opened.manifest, on)


def verify(bundle: Path) -> GoldenResult:
    """Check every byte of a bundle and reproduce its golden outputs on this machine.

    Raises:
        RejectedError: it is malformed or damaged. DeviceError: `golden-mismatch`, or the runtime failed.
    """
    with unpacked(bundle) as opened:
        manifest = opened.manifest
        engines.require(manifest.runtime)
        session = engines.load(opened.folder / manifest.model, manifest)
        try:
            return golden.check(session, manifest, cases.decode((opened.folder / manifest.golden.path).read_bytes()))
        finally:
            session.close()

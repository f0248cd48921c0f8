"""Golden outputs reproduced by a child process, and its distances held to the bundle's bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml import child_process
from edgeml.child_process import ExecutionSite
from edgeml_core.card import How
from edgeml_core.manifest import Manifest
from edgeml_runtime.tasks import Answer
from edgeml_runtime.verify.child import Reply, encode
from edgeml_runtime.verify.golden import mismatch
from edgeml_runtime.verify.kernels import KernelReport

#: The program that each execution site runs.
PROGRAM: Final = "edgeml_runtime.verify.child"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Golden outputs that were reproduced on a CPU within the bundle's bounds.

    Attributes:
        cpu: the emulated core, or the machine's own name for its CPU.
        how: whether that CPU was emulated.
        runtime: the runtime's version there.
        min_cosine: the lowest cosine of a golden output to the recorded one.
        max_abs: the largest distance of an element from the recorded one.
        answers: to the items, in order.
        kernels: of a language model, where the request has a gauge.
    """

    cpu: str
    how: How = "emulated"
    runtime: str
    min_cosine: float
    max_abs: float
    answers: list[Answer]
    kernels: KernelReport | None = None


def verify_here(folder: Path, manifest: Manifest) -> Verification:
    """Reproduce a bundle's golden outputs on this machine; raises as `run` does."""
    return run(child_process.here(PROGRAM, str(folder)), manifest, encode(manifest, ()))


def run(site: ExecutionSite, manifest: Manifest, request: bytes) -> Verification:
    """Reproduce a bundle's golden outputs at an execution site.

    Args:
        site: runs `PROGRAM`.
        manifest: the bundle's; its golden bounds decide.
        request: made by `edgeml_runtime.verify.child.encode`, in the form that the site's command reads.

    Raises:
        DeviceError: `golden-mismatch`; `runtime-failed` or `runtime-missing`; `probe-crashed`, when the child crashed,
            hung or gave no reply.
        TransportError: `host-unreachable`.
        UsageError: `input-invalid`, when an item isn't of the model's kind.
        RejectedError: `bundle-format`.
    """
    reply = child_process.run(site, request, Reply)
    if reply.refused is not None:
        raise reply.refused.error(f"on {site.name}: ")
    for distance in reply.distances:
        if not distance.within(manifest.golden):
            raise mismatch(distance, where=site.name)
    return Verification(
        cpu=site.name if site.how == "emulated" else reply.cpu,
        how=site.how,
        runtime=reply.runtime,
        min_cosine=min(it.cosine for it in reply.distances),
        max_abs=max(it.max_abs for it in reply.distances),
        answers=list(reply.answers),
        kernels=reply.kernels,
    )

"""A repository with the sample's release, deployed to all of its devices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeml import repository
from edgeml.repository.deployments import deploy
from support import samples


def make(folder: Path, devices: Iterable[str]) -> Path:
    """Make the repository in `folder`, the folders of its devices beside it, and return its own."""
    repo, bundle = folder / "repo", folder / "sample.edgeml"
    repository.init(repo, fleet="farm")
    bundle.write_bytes(samples.a_bundle())
    repository.publish(repo, [bundle])
    for device in devices:
        repository.enroll(repo, device, labels={}, broker_url=None, out_dir=folder / device)
    deploy(repo, "sample", selector="", allow_empty=True)
    return repo

"""The releases that the release key has withdrawn, by the signed files that this device has verified and kept.

Where a release is installed, `trust` reads the same mark from python-tuf. This module needs no source and no refresh.
"""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from edgeml_agent.trust.time_floor import FOLDER_NAME
from edgeml_agent.trust.tuf_client import CURRENT
from edgeml_core import trust


def withdrawn(state: Path) -> frozenset[str]:
    """Return the withdrawn releases by the stems of their bundles; none where this device has verified no files yet.

    Args:
        state: the store's folder.
    """
    try:
        held = (state / FOLDER_NAME / trust.RELEASES / CURRENT / "targets.json").read_bytes()
        targets = Metadata[Targets].from_bytes(held).signed.targets
    except (RepositoryError, OSError):
        return frozenset()
    return frozenset(
        path.removesuffix(trust.MANIFEST_SUFFIX) for path, target in targets.items() if trust.is_withdrawn(target)
    )

"""A device that takes releases in but serves none, so that no runtime's memory counts: `device.py AGENT.toml`."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeml_agent import log, main, settings
from edgeml_agent.serve.models import Models
from edgeml_core.manifest import Manifest


class UnservedModels(Models):
    """Models that have passed their probe, and stay on the disk."""

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """See `ModelServer.activate`."""


if __name__ == "__main__":
    log.set_up()
    main.Models = UnservedModels
    main.run(settings.load(Path(sys.argv[1]), {}))

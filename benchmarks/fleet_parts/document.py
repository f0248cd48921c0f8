"""The size of the fleet document, which every device reads after each change, with few and with many devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeml import repository
from edgeml_core import desired
from edgeml_core.desired import FLEET_DOCUMENT_MAX_BYTES
from fleet_parts.site import MODEL, VERSIONS, made
from harness import host
from harness.figures import Figure, Run, most

SIZES: Final = (5_000, 100_000)
QUICK_SIZES: Final = (50, 500)


def figures(run: Run) -> Iterator[Figure]:
    """Yield the bytes of a document with two deployments, at the largest number of devices."""
    found: dict[str, float] = {}
    with host.watching() as watch:
        for size in run.size(SIZES, QUICK_SIZES):
            folder = run.folder / f"document-{size}"
            folder.mkdir()
            of = made(folder / "repo", size)
            repository.deploy(of.folder, MODEL, VERSIONS[1], selector="ring=3")
            found[f"{size:,} devices"] = len(desired.encode(of.document()))
    yield Figure(
        name="fleet document with the most devices enrolled",
        value=found[f"{size:,} devices"],
        unit="bytes",
        sides=found,
        sides_unit="bytes",
        host=watch.load,
        aim=most(FLEET_DOCUMENT_MAX_BYTES),
        note="two deployments",
    )

"""The demonstration's story: one function of named steps, and what it found out. How it is printed is the CLI's."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml import pipeline, repository, targets
from edgeml.demo import retrain
from edgeml.demo.site import Site, opened
from edgeml.demo.traffic import Served, traffic
from edgeml.export.request import Exported, ExportRequest
from edgeml.fleet.deploy import deploy
from edgeml_core.errors import GateFailed
from edgeml_core.messages import Report

NAME: Final = "minilm"
DEVICE: Final = "barn-1"
SENTENCES: Final = (
    "The cow has not eaten since yesterday.",
    "One of the cattle refuses its feed.",
    "The patient's temperature rose during the night.",
    "A fever was recorded after midnight on the ward.",
    "The tractor needs a new battery.",
)
#: Requests go on for so long after the new version has begun to answer.
AFTER_SWAP_S: Final = 1.0

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What the demonstration found out. `similarity[i][j]` is the cosine of sentences i and j."""

    exported: Exported
    similarity: list[list[float]]
    first: Report
    second: Report
    swap: Served
    seconds: float


def run(tell: Tell) -> Demonstrated:
    """Export, publish, deliver, ask; then a second version under traffic. Leaves nothing behind, also when stopped.

    Args:
        tell: is told each step, one line a time.

    Raises:
        EdgemlError: whatever step failed says why.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgeml-demo-"))
    try:
        return asyncio.run(_whole_way(folder, tell))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _whole_way(folder: Path, tell: Tell) -> Demonstrated:
    started = time.monotonic()
    model = retrain.source()
    exported = await _export(model, "1", folder, tell)
    fleet = _repository(folder, exported, tell)
    async with opened(folder, fleet, DEVICE, tell) as site:
        first = await _deliver(site, fleet, "1", tell)
        similarity = await asyncio.to_thread(_similarity, site)
        tell("training the encoder a little further, on this CPU")
        retrained = await asyncio.to_thread(retrain.train, model, folder / "retrained")
        repository.publish(fleet, [(await _export(retrained, "2", folder, tell)).path])
        swap, second = await _under_traffic(site, lambda: _deliver(site, fleet, "2", tell), tell)
    return Demonstrated(
        exported=exported,
        similarity=similarity,
        first=first,
        second=second,
        swap=swap,
        seconds=time.monotonic() - started,
    )


async def _export(model: Path, version: str, folder: Path, tell: Tell) -> Exported:
    target = targets.this_machine().name
    tell(f"exporting {NAME} {version} for {target}: ONNX, int8")
    request = ExportRequest(
        model=str(model), targets=(target,), formats=("onnx",), name=NAME, version=version, output=folder / "out"
    )
    (exported,) = await asyncio.to_thread(pipeline.export, request, _Steps(tell))
    return exported


def _repository(folder: Path, exported: Exported, tell: Tell) -> Path:
    tell("making a repository with its keys; signing the release")
    fleet = folder / "fleet"
    repository.init(fleet)
    repository.publish(fleet, [exported.path])
    return fleet


async def _deliver(site: Site, fleet: Path, version: str, tell: Tell) -> Report:
    tell(f"deploying {NAME} {version} over MQTT")
    return await site.active(deploy(fleet, NAME, version, selector={"site": "farm-7"}))


def _similarity(site: Site) -> list[list[float]]:
    answers = site.ask(NAME, [{"text": text} for text in SENTENCES])["outputs"]
    vectors = [answer["embedding"] for answer in answers]
    return [[sum(a * b for a, b in zip(one, two, strict=True)) for two in vectors] for one in vectors]


async def _under_traffic(site: Site, deliver: Callable[[], Awaitable[Report]], tell: Tell) -> tuple[Served, Report]:
    tell("swapping the second version in under traffic")
    with traffic(site, NAME, SENTENCES) as served:
        report = await deliver()
        await asyncio.sleep(AFTER_SWAP_S)
    if served.failed or set(served.versions) != {"1", "2"}:
        raise GateFailed("gate-failed", f"the swap was not seamless: {served}")
    return served, report


class _Steps:
    """The export's stages among the demonstration's own."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def stage(self, name: str) -> None:
        """A step of the export begins."""
        self._tell(f"  {name}")

    def done(self, exported: Exported) -> None:
        """A bundle was written."""
        self._tell(f"  wrote {exported.path.name}")

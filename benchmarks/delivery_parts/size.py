"""Bytes on the wire for an update of a retrained model, beside those that other tools send for it.

A device with version 1 gets version 2, then (back on 1) version 3. Broker, host and agent are processes of their own.
Every byte of TCP between agent and broker counts, from publishing the release until it serves. That includes signed
metadata, requests, subscriptions, chunks, reports and MQTT's own overhead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from delivery_parts import other_tools, updates
from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core.bundle import BundleReader
from harness import host
from harness.figures import Figure, HostLoad, Run, most
from support.counting_proxy import Counter, counting
from support.delivery_site import Site, site, until
from support.tiny_models import WEIGHTS_NAME

#: Versions, the names of their updates, and the aims in percent of the whole file under zstd -19.
UPDATES: Final = {
    updates.LATER: ("one more epoch", most(8)),
    updates.TRAINED_AGAIN: ("trained again from the encoder", most(15)),
}
OURS: Final = "edgeml, all bytes of TCP"


def figures(run: Run) -> Iterator[Figure]:
    """Yield the bytes of both updates as percents of the whole file."""
    bundles = updates.bundles(run)
    sent, load = _updates(run.folder / "size", bundles)
    for version, (name, aim) in UPDATES.items():
        old, new = bundles[updates.BASE], bundles[version]
        others = other_tools.sizes(old, new, run.folder)
        yield Figure(
            name=f"update, {name}: bytes of TCP against the whole file under zstd -19",
            value=sent[version] / others[other_tools.WHOLE] * 100,
            unit="%",
            sides={OURS: sent[version], **others},
            sides_unit="bytes",
            host=load,
            aim=aim,
            note=f"{_changed(old, new):.1%} of the weights' bytes changed",
        )


def _updates(folder: Path, bundles: dict[str, Path]) -> tuple[dict[str, int], HostLoad]:
    """Return the bytes that each update takes from version 1, and the host's load."""
    sent = {}
    with site(folder) as made, counting(made.broker.port) as counter, host.watching() as watch:
        config = made.config.read_text()
        made.config.write_text(config.replace(f":{made.broker.port}", f":{counter.port}"))
        made.start_host()
        made.start_agent()
        for version in UPDATES:
            _update(made, counter, bundles[updates.BASE])
            sent[version] = _update(made, counter, bundles[version])
    return sent, watch.load


def _update(made: Site, counter: Counter, bundle: Path) -> int:
    before = counter.passed_bytes
    (published,) = repository.publish(made.repo, [bundle])
    deployment = deploy(made.repo, published.name, published.version, selector="").deployment.id
    until(lambda: _is_active(made, deployment), f"{deployment} is active")
    return counter.passed_bytes - before


def _is_active(made: Site, deployment: str) -> bool:
    return any((it.deployment, it.state) == (deployment, "active") for it in made.observer.reports())


def _changed(old: Path, new: Path) -> float:
    """Return the fraction of the weights' bytes that differ."""
    before, after = (np.frombuffer(_weights(path), np.uint8) for path in (old, new))
    return float(np.mean(before != after))


def _weights(bundle: Path) -> bytes:
    with bundle.open("rb") as file:
        reader = BundleReader(file)
        (entry,) = (it for it in reader.manifest.files if re.search(rf"\.weights$|^{WEIGHTS_NAME}$", it.path))
        return b"".join(reader.chunks(entry))

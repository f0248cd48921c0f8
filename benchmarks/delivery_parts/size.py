"""Bytes on the wire for an update of a really retrained model, beside what other tools would send for it.

A device with version 1 gets version 2, then (back on 1) version 3. Broker, host and agent are real processes, and
every byte between agent and broker is counted from before the release is published until it serves: signed metadata,
wants, subscriptions, chunks, reports and all that MQTT adds.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from delivery_parts import models as trained
from delivery_parts import rivals
from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core.bundle import BundleReader
from support.counting_proxy import Counter, counting
from support.delivery_site import Site, site, until

UPDATES = {"2": ("one more epoch", 0.08), "3": ("fitted anew", 0.15)}


def run(folder: Path, models: Path) -> None:
    """Print the table of both updates."""
    models.mkdir(parents=True, exist_ok=True)
    bundles = trained.make(models)
    sent = _updates(folder / "site", bundles)
    for version, (name, most) in UPDATES.items():
        old, new = bundles["1"], bundles[version]
        others = rivals.sizes(old, new, folder)
        full = others[rivals.WHOLE]
        print(f"{name}: {_changed(old, new):.1%} of the weights' bytes changed, {new.stat().st_size:,} bytes")
        for tool, size in {"edgeml, all bytes of TCP": sent[version], **others}.items():
            print(f"  {tool:40} {size:12,}  {size / full:6.1%}")
        print(f"  {'asked for':40} {'':12}  {most:6.1%}  {'met' if sent[version] <= most * full else 'MISSED'}")


def _updates(folder: Path, bundles: dict[str, Path]) -> dict[str, int]:
    """The bytes that each update takes, from version 1."""
    sent = {}
    with site(folder) as made, counting(made.broker.port) as counter:
        config = made.config.read_text()
        made.config.write_text(config.replace(f":{made.broker.port}", f":{counter.port}"))
        made.start_host()
        made.start_agent()
        for version in UPDATES:
            _update(made, counter, bundles["1"])
            sent[version] = _update(made, counter, bundles[version])
    return sent


def _update(made: Site, counter: Counter, bundle: Path) -> int:
    before = counter.passed_bytes
    (published,) = repository.publish(made.repo, [bundle])
    deployment = deploy(made.repo, published.name, published.version, selector={}).deployment.id
    until(lambda: _is_active(made, deployment), f"{deployment} is active")
    return counter.passed_bytes - before


def _is_active(made: Site, deployment: str) -> bool:
    return any((it.deployment, it.state) == (deployment, "active") for it in made.observer.reports())


def _changed(old: Path, new: Path) -> float:
    """The share of the weights' bytes that differ."""
    before, after = (np.frombuffer(_weights(path), np.uint8) for path in (old, new))
    return float(np.mean(before != after))


def _weights(bundle: Path) -> bytes:
    with bundle.open("rb") as file:
        reader = BundleReader(file)
        (entry,) = (it for it in reader.manifest.files if re.search(r"\.weights$", it.path))
        return b"".join(reader.chunks(entry))

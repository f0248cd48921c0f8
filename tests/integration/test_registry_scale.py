"""The registry with many devices: pages come at once, and a whole fleet of 5,000 within a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.fleet import status
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.fleet.status import Chosen
from edgeml.repository.deployments import deploy
from edgeml.repository.layout import DATABASE_FILE, RepositoryFolder
from edgeml_core.messages import DeviceState, ModelState, Report
from support import samples

pytestmark = [pytest.mark.nightly, pytest.mark.timing]


@pytest.mark.parametrize(("devices", "every_max_s"), [(5_000, 1.0), (100_000, 20.0)])
def test_a_large_fleet_is_read_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, every_max_s: float):
    """Status, page and choice; the records are replaced, since enrolling each device takes its time."""
    repo = tmp_path / "repo"
    repository.init(repo)
    (tmp_path / "sample.edgeml").write_bytes(samples.a_bundle())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    repository.enroll(repo, "pi", labels={}, broker_url=None, out_dir=tmp_path / "pi")
    deploy(repo, "sample", selector="")
    document = repository.opened(repo).document()
    ids = [f"pi-{number:06d}" for number in range(devices)]
    monkeypatch.setattr(RepositoryFolder, "labels", lambda _: {name: {} for name in ids})
    registry = Registry(repo / DATABASE_FILE)
    for start in range(0, devices, 1000):
        registry.record([it for name in ids[start : start + 1000] for it in messages(name, document.deployments[0].id)])

    def elapsed_s(chosen: Chosen, **page: object) -> float:
        begun_s = time.perf_counter()
        found = status.devices(repo, registry, chosen=chosen, **page)
        assert len(found) == page.get("limit", devices)
        return time.perf_counter() - begun_s

    begun_s = time.perf_counter()
    assert status.status(repo, registry).deployments[0].states == {"fetching": devices}
    assert time.perf_counter() - begun_s < every_max_s
    assert elapsed_s(Chosen()) < every_max_s
    assert elapsed_s(Chosen(), after=ids[devices // 2], limit=500) < 1.0
    assert elapsed_s(Chosen(state="offline"), limit=50) < 1.0
    registry.close()


def messages(device: str, deployment: str) -> list[DeviceMessage]:
    """A state and a report of a device; one of ten is away."""
    models = {"sample": ModelState(version="1.0", state="fetching", target="rpi4", format="onnx")}
    state = DeviceState(online=not device.endswith("0"), session=1, agent="0.1", arch="aarch64", models=models)
    report = Report(deployment=deployment, name="sample", version="1.0", state="fetching", session=1)
    return [DeviceMessage(device=device, message=it, seen_s=1.0) for it in (state, report)]

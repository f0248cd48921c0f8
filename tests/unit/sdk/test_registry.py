"""The registry of devices, and the status made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeml import repository
from edgeml.cli.fleet import fleet as commands
from edgeml.fleet import status
from edgeml.fleet.registry import HISTORY_MAX, DeviceMessage, Registry
from edgeml.repository.deployments import deploy
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.drift import Drift
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, ModelState, Report
from support import samples


@pytest.fixture
def registry(tmp_path: Path):
    opened = Registry(tmp_path / "fleet.db")
    yield opened
    opened.close()


def state(
    device: str, *, online: bool = True, session: int = 1, models: dict | None = None, seen_s: float = 1.0
) -> DeviceMessage:
    return DeviceMessage(
        device=device, message=DeviceState(online=online, session=session, models=models or {}), seen_s=seen_s
    )


def report(device: str, deployment: str, what: str, *, code: str = "", seen_s: float = 2.0) -> DeviceMessage:
    message = Report(deployment=deployment, name="sample", version="1.0", state=what, session=1, code=code)
    return DeviceMessage(device=device, message=message, seen_s=seen_s)


def test_the_history_has_changes_only_and_is_bounded(registry: Registry):
    """The newest first; a report of the same state, or a state with other drift alone, is no change."""
    drifts = {"sample": ModelState(version="1.0", state="active", drift=Drift(grade="ok", observed=60))}
    registry.record([state("pi-1"), state("pi-1", seen_s=2.0), state("pi-1", online=False, seen_s=3.0)])
    registry.record([state("pi-1", online=False, session=2, models=drifts, seen_s=4.0)])
    models = {"sample": ModelState(version="1.0", state="active")}
    registry.record([state("pi-1", online=False, session=3, models=models)])
    assert [(it.message.online, it.seen_s) for it in registry.history("pi-1", "state")] == [
        (False, 4.0),
        (False, 3.0),
        (True, 1.0),
    ]
    for number in range(2 * HISTORY_MAX):
        registry.record([report("pi-1", "d1", f"state {number // 2}"), report("pi-2", "d1", "active")])
    changes = registry.history("pi-1", "report")
    assert [it.message.state for it in changes] == [f"state {number}" for number in range(HISTORY_MAX)][::-1]
    registry.record([report("pi-1", "d1", f"state {number}") for number in range(5 * HISTORY_MAX)])
    assert [it.message.state for it in registry.history("pi-1", "report")][:2] == ["state 249", "state 248"]
    assert len(registry.history("pi-1", "report")) == HISTORY_MAX
    assert len(registry.history("pi-2", "report")) == 1


def test_a_state_without_end_can_be_recorded(registry: Registry):
    """A hostile device's text fits a column that queries select by; the report itself is kept whole."""
    registry.record([report("pi-1", "d1", "\0" + "x" * 10_000)])
    assert len(registry.reports("d1")["pi-1"].state) == 10_001


def test_the_last_state_holds(registry: Registry):
    """A later state replaces an earlier one, with the time it came."""
    registry.record([state("pi-1"), state("pi-1", online=False, seen_s=5.0)])
    (seen,) = registry.devices().values()
    assert (seen.state.online, seen.seen_s) == (False, 5.0)


def test_a_late_will_is_ignored(registry: Registry):
    """A will of an older session doesn't take a newer birth offline; the newer session's own will does."""
    registry.record([state("pi-1", session=2), state("pi-1", online=False, session=1)])
    assert registry.devices()["pi-1"].state.online
    registry.record([state("pi-1", online=False, session=2)])
    assert not registry.devices()["pi-1"].state.online


def test_a_will_takes_no_update_back(registry: Registry):
    """The broker has a will since the connection began, and with it the versions of that time."""
    old, new = ({"sample": ModelState(version=version, state="active")} for version in ("1.0", "2.0"))
    registry.record([state("pi-1", models=old), state("pi-1", models=new), state("pi-1", models=old, online=False)])
    seen = registry.devices()["pi-1"].state
    assert (seen.online, seen.models) == (False, new)


def test_a_device_that_lost_its_store_is_believed(registry: Registry):
    """A birth with a smaller session is a birth all the same."""
    registry.record([state("pi-1", session=9), state("pi-1", online=False, session=9), state("pi-1", session=1)])
    assert registry.devices()["pi-1"].state.online


def test_reports_are_kept_per_deployment(registry: Registry):
    """Each deployment has each device's last report; a report counts as a sign of life."""
    registry.record([state("pi-1"), report("pi-1", "d1", "fetching"), report("pi-1", "d1", "active", seen_s=7.0)])
    registry.record([report("pi-1", "d2", "rejected", code="digest-mismatch")])
    assert registry.reports("d1")["pi-1"].state == "active"
    assert registry.reports("d2")["pi-1"].code == "digest-mismatch"
    assert registry.reports("d3") == {}


def test_what_is_recorded_survives(tmp_path: Path):
    """Another registry on the same file, also while the first is open, reads what was recorded."""
    writer = Registry(tmp_path / "fleet.db")
    writer.record([state("pi-1")])
    reader = Registry(tmp_path / "fleet.db")
    assert list(reader.devices()) == ["pi-1"]
    reader.close()
    writer.close()


def test_a_file_that_is_no_database_is_a_device_error(tmp_path: Path):
    """A damaged database is store-failed, with a remedy."""
    (tmp_path / "fleet.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DeviceError) as caught:
        Registry(tmp_path / "fleet.db").devices()
    assert caught.value.code == "store-failed"
    assert caught.value.hint


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A repository with three devices and one deployment to two of them."""
    repo = tmp_path / "repo"
    repository.init(repo)
    (tmp_path / "sample.edgeml").write_bytes(samples.a_bundle())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    for device, site in (("pi-1", "a"), ("pi-2", "a"), ("pi-3", "b")):
        repository.enroll(repo, device, labels={"site": site}, broker_url=None, out_dir=tmp_path / device)
    deploy(repo, "sample", selector="site=a")
    return repo


def test_a_fleet_that_said_nothing_is_silent(fleet: Path):
    """Before any message, the devices wanted are counted, and silent."""
    found = status.status(fleet)
    assert (found.devices, found.online) == (3, 0)
    assert (found.deployments[0].devices, found.deployments[0].states) == (2, {"silent": 2})


def test_status_counts_states_and_names_failures(fleet: Path):
    """A device's own state says active even when its report was lost; a refusal is named with its code."""
    (deployment,) = repository.opened(fleet).document().deployments
    active = ModelState(version="1.0", state="active")
    registry = Registry(fleet / DATABASE_FILE)
    registry.record([state("pi-1", models={"sample": active}), state("pi-2"), state("pi-3")])
    registry.record([report("pi-2", deployment.id, "rejected", code="release-unsuitable")])
    registry.close()
    found = status.status(fleet)
    assert found.online == 3
    assert found.deployments[0].states == {"active": 1, "rejected": 1}
    assert [(it.device, it.code) for it in found.deployments[0].failures] == [("pi-2", "release-unsuitable")]
    assert found.to_dict()["deployments"][0]["states"] == {"active": 1, "rejected": 1}


def test_a_device_that_refuses_what_is_signed_is_named(fleet: Path):
    """As long as it does."""
    refuses = DeviceState(online=True, session=1, code="rollback-attempt", message="older metadata was offered")
    registry = Registry(fleet / DATABASE_FILE)
    registry.record([DeviceMessage(device="pi-2", message=refuses, seen_s=1.0)])
    assert [(it.device, it.code) for it in status.status(fleet).refusals] == [("pi-2", "rollback-attempt")]
    assert {it.id: it.code for it in status.devices(fleet)} == {"pi-1": "", "pi-2": "rollback-attempt", "pi-3": ""}
    registry.record([state("pi-2", seen_s=2.0)])
    registry.close()
    assert status.status(fleet).refusals == ()


def test_a_model_that_drifts_is_named(fleet: Path):
    """By its device, with what moved; one that doesn't is "ok" in the list of devices, one unjudged nothing."""

    def model(drift: Drift | None) -> ModelState:
        return ModelState(version="1.0", state="active", drift=drift)

    registry = Registry(fleet / DATABASE_FILE)
    moved = Drift(grade="major", observed=700, psi={"label": 3.21, "score": 0.6})
    registry.record([state("pi-1", models={"sample": model(moved)})])
    registry.record([state("pi-2", models={"sample": model(Drift(grade="ok", observed=60)), "other": model(None)})])
    registry.record([state("pi-3", models={"sample": model(None)})])
    registry.close()
    (drifted,) = status.status(fleet).drifted
    assert (drifted.device, drifted.name, drifted.drift) == ("pi-1", "sample", moved)
    lines = _shown("status", fleet)
    assert lines[-1] == "pi-1: sample 1.0 drifts: major: label 3.21, score 0.60"
    rows = [line.split("  ")[-1].strip() for line in _shown("devices", fleet)]
    assert [rows[0], rows[-3], rows[-2]] == ["drift", "major: label 3.21, score 0.60", "sample ok"]


def _shown(what: str, repo: Path) -> list[str]:
    done = CliRunner().invoke(commands, [what, "--repo", str(repo)], catch_exceptions=False, terminal_width=200)
    return [line.rstrip() for line in done.output.splitlines()]


def test_devices_are_all_enrolled_ones(fleet: Path):
    """Devices that were never seen are listed too, offline."""
    registry = Registry(fleet / DATABASE_FILE)
    registry.record([state("pi-1", models={"sample": ModelState(version="0.9", state="active")})])
    registry.close()
    found = {device.id: device for device in status.devices(fleet)}
    assert (found["pi-1"].online, found["pi-1"].models["sample"].version) == (True, "0.9")
    assert (found["pi-3"].online, found["pi-3"].seen_s, found["pi-3"].labels) == (False, 0.0, {"site": "b"})

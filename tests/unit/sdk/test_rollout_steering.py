"""Rollouts on a real repository and its database: what is recorded, logged and signed, and the commands."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from edgeml import repository
from edgeml.cli.main import run
from edgeml.fleet.database.schema import ROLLOUT
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.fleet.rollouts.plan import Phase, Plan, Rollout
from edgeml.fleet.rollouts.steering import Steering
from edgeml.repository import deployments
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import desired, selectors
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Report
from support import samples

NOW = datetime.now(UTC)
DEVICES = [f"d-{n}" for n in range(4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A repository with two versions and four devices, of which all run the first."""
    folder = tmp_path_factory.mktemp("made")
    repo = folder / "repo"
    repository.init(repo)
    for version in ("1.0", "2.0"):
        of = samples.a_manifest(version=version)
        path = folder / f"{of.stem}.edgeml"
        path.write_bytes(samples.a_bundle(of))
        repository.publish(repo, [path])
    for name in DEVICES:
        repository.enroll(repo, name, labels={"site": "a"}, broker_url=None, out_dir=folder / name)
    repository.deploy(repo, "sample", "1.0", selector="")
    Registry(repo / DATABASE_FILE).record([])
    return repo


@pytest.fixture
def farm(made: Path, tmp_path: Path):
    """A copy of it, and its steering."""
    shutil.copytree(made, tmp_path / "repo")
    farm = Farm(tmp_path / "repo")
    yield farm
    farm.registry.close()


class Farm:
    """A repository, its registry and a clock."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.folder = repository.opened(repo)
        [self.old] = self.folder.document().deployments
        self.registry = Registry(self.repo / DATABASE_FILE)
        self.steering = Steering(self.folder, self.registry)
        self.now = NOW

    def begin(self, *waves: float, **plan):
        """Begin a rollout of the second version."""
        values = {"soak_s": 60.0, **plan}
        return self.steering.begin("sample", "2.0", selector="", plan_=Plan(waves=waves, **values), now=self.now)

    def report(self, rollout, *devices: str, state: State = State.ACTIVE, code: str = "") -> None:
        """Record reports of devices."""
        reports = [
            Report(deployment=rollout.id, name="sample", version="2.0", state=state, session=1, code=code)
            for _ in devices
        ]
        self.registry.record(
            [DeviceMessage(device=it, message=report, seen_s=1.0) for it, report in zip(devices, reports, strict=True)]
        )

    def turn(self, *, later_s: float = 0.0) -> list[str]:
        """Let the controller decide, and name its decisions."""
        self.now += timedelta(seconds=later_s)
        return [type(decision).__name__ for _, decision in self.steering.turn(self.now)]

    def complete(self) -> Rollout:
        """Let a rollout of the second version come to its end."""
        rollout = self.begin(100)
        self.report(rollout, *DEVICES)
        assert [*self.turn(), *self.turn(later_s=61)] == ["Soak", "Complete"]
        return self.steering.rollouts.find(rollout.id)

    def included(self) -> list[str]:
        """The devices to which the document gives the second version."""
        document = self.folder.document()
        return [it for it in DEVICES if desired.wanted_by(document, it, {"site": "a"})["sample"].version == "2.0"]

    def acts(self) -> list[str]:
        """The acts in the audit log, after a check against the signed head."""
        head, anchor = self.folder.check_audit()
        assert head == anchor
        return [it.act for it in self.folder.audit.entries()]


def test_a_rollout_begins_goes_on_and_is_complete(farm: Farm):
    """The first wave is signed by the command; every decision is in the log; the old deployment leaves at the end."""
    rollout = farm.begin(25, 100)
    assert (rollout.phase, rollout.wave, len(farm.included())) == (Phase.RUNNING, 0, 1)
    assert farm.turn() == []
    farm.report(rollout, *farm.included())
    assert farm.turn() == ["Soak"]
    assert farm.turn(later_s=30) == []
    assert farm.turn(later_s=31) == ["Begin"]
    assert farm.included() == DEVICES
    assert [it.version for it in farm.folder.document().deployments] == ["1.0", "2.0"]
    farm.report(rollout, *DEVICES)
    assert farm.turn() == ["Soak"]
    assert farm.turn(later_s=61) == ["Complete"]
    assert [(it.version, it.in_waves) for it in farm.folder.document().deployments] == [("2.0", False)]
    assert farm.turn() == []
    assert farm.acts()[-6:] == [
        "roll out", "rollout: begin", "rollout: soak", "rollout: begin", "rollout: soak", "rollout: complete",
    ]  # fmt: skip
    entry = farm.folder.audit.entries()[-1]
    assert (entry.actor, entry.subject, entry.details["phase"]) == ("controller", rollout.id, "completed")
    back = farm.steering.act("sample", "rollback", now=farm.now)
    assert (back.phase, back.is_open) == (Phase.ROLLED_BACK, False)
    assert farm.folder.document().deployments == (farm.old,)


def test_a_failure_takes_the_deployment_out_of_the_document(farm: Farm):
    """The log names the device and its code; the same version can be rolled out again, under another id."""
    rollout = farm.begin(25, 100)
    [device] = farm.included()
    farm.report(rollout, device, state=State.REJECTED, code="golden-mismatch")
    assert farm.turn() == ["Abort"]
    assert farm.folder.document().deployments == (farm.old,)
    assert f"{device} golden-mismatch" in farm.folder.audit.entries()[-1].details["reason"]
    assert farm.turn() == []
    second = farm.begin(25, 100)
    assert second.id != rollout.id
    assert [it.phase for it in farm.steering.rollouts.all()] == [Phase.RUNNING, Phase.ABORTED]


def test_nothing_else_is_deployed_beside_a_rollout_but_pins(farm: Farm):
    """The operator ends the rollout first."""
    farm.begin(25, 100)
    for act in (
        lambda: repository.deploy(farm.repo, "sample", "1.0", selector=""),
        lambda: Steering(farm.folder, farm.registry).begin(
            "sample", "1.0", selector="", plan_=Plan(waves=(100,)), now=NOW
        ),
        lambda: repository.Repository.open(farm.repo).undeploy("sample"),
    ):
        with pytest.raises(UsageError, match="under way") as caught:
            act()
        assert "abort" in caught.value.hint
    [device] = farm.included()
    repository.deploy(farm.repo, "sample", "1.0", selector=f"device={device}", pin=True)
    assert farm.included() == []
    assert farm.steering.reached(farm.steering.rollouts.find("sample"))[0].device != device


def test_a_rollout_that_waits_for_its_hours_keeps_its_place(farm: Farm):
    """Nothing else is deployed meanwhile. A pin gets another id, and holds when the hours have come."""
    far = farm.now + timedelta(hours=12)
    rollout = farm.begin(50, 100, window=f"{far:%H}:00-{far:%H}:59")
    assert (rollout.wave, farm.included()) == (-1, [])
    for act in (
        lambda: repository.deploy(farm.repo, "sample", "2.0", selector="device=d-0"),
        lambda: repository.Repository.open(farm.repo).undeploy("sample"),
    ):
        with pytest.raises(UsageError, match="under way"):
            act()
    pin = repository.deploy(farm.repo, "sample", "2.0", selector="device=d-0", pin=True).deployment
    assert pin.id != rollout.id
    assert farm.turn() == []
    assert farm.turn(later_s=12 * 3600) == ["Begin"]
    assert farm.folder.document().deployments[-1] == pin
    assert farm.steering.act("sample", "abort", now=farm.now).phase is Phase.ABORTED
    assert farm.folder.document().deployments == (farm.old, pin)


def test_a_rollout_stays_in_the_document_beside_a_pin_of_all_devices(farm: Farm):
    """Else another deployment could be signed until the next turn of a host."""
    rollout = farm.begin(50, 100)
    pin = repository.deploy(farm.repo, "sample", "1.0", selector="", pin=True).deployment
    assert [it.id for it in farm.folder.document().deployments] == [rollout.id, pin.id]
    with pytest.raises(UsageError, match="under way"):
        repository.deploy(farm.repo, "sample", "1.0", selector="")


def test_a_wave_that_two_operators_approve_is_approved_once(farm: Farm):
    """The second one has seen an earlier state: the next wave needs a decision of its own."""
    rollout = farm.begin(25, 50, 100, approve=True)
    farm.report(rollout, *farm.included())
    assert [*farm.turn(), *farm.turn(later_s=61)] == ["Soak", "Ask"]
    for _ in range(2):
        assert farm.steering.act("sample", "approve", now=farm.now, wave=2).approved == 2
    assert farm.turn() == ["Begin"]
    with pytest.raises(UsageError, match="wave 2 isn't the next") as caught:
        farm.steering.act("sample", "approve", now=farm.now, wave=2)
    assert caught.value.code == "usage"
    assert farm.steering.rollouts.find("sample").approved == 2


@pytest.mark.parametrize("end", ["failures", "abort", "rollback"])
def test_an_ended_rollout_keeps_its_failures(farm: Farm, end: str):
    """The registry forgets the reports with the deployment; each device was shown as silent then."""
    if end == "failures":
        rollout = farm.begin(100)
        farm.report(rollout, *DEVICES[:3], state=State.REJECTED, code="golden-mismatch")
        assert farm.turn() == ["Abort"]
    else:
        rollout = farm.complete() if end == "rollback" else farm.begin(100, abort_above=100)
        farm.report(rollout, *DEVICES[:3], state=State.REJECTED, code="golden-mismatch")
        farm.steering.act("sample", end, now=farm.now)
    farm.registry.keep_reports(it.id for it in farm.folder.document().deployments)
    found = farm.steering.rollouts.find("sample")
    assert sorted(it.device for it in farm.steering.reached(found) if it.code == "golden-mismatch") == DEVICES[:3]


def test_a_rollout_of_an_earlier_version_is_read(farm: Farm):
    """It has no failures."""
    rollout = farm.begin(100)
    stored = msgspec.json.decode(msgspec.json.encode(rollout))
    del stored["failed"]
    with farm.registry.database.writing() as connection:
        connection.execute(sa.update(ROLLOUT).values(rollout=msgspec.json.encode(stored)))
    assert farm.steering.rollouts.find(rollout.id) == rollout


def test_a_rollback_of_a_rollout_that_was_replaced_is_refused(farm: Farm):
    """It would change nothing, and would still be told and logged as done."""
    complete = farm.complete()
    newer = repository.deploy(farm.repo, "sample", "1.0", selector="").deployment
    entries = farm.folder.audit.entries()
    with pytest.raises(UsageError, match=f"replaced by {newer.id}"):
        farm.steering.act("sample", "rollback", now=farm.now)
    assert farm.steering.rollouts.find(complete.id) == complete
    assert farm.folder.audit.entries() == entries


def test_a_process_that_dies_before_it_signs_is_followed_up(farm: Farm):
    """The rollout is ahead of the document, for each decision; the next turn signs, and decides nothing twice."""
    rollout = farm.begin(50, 100)
    farm.report(rollout, *farm.included())
    farm.turn()
    signed = farm.folder.write_document

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    farm.folder.write_document = die
    with pytest.raises(KeyboardInterrupt):
        farm.turn(later_s=61)
    assert len(farm.included()) == 2
    farm.folder.write_document = signed
    assert farm.turn() == []
    assert farm.included() == DEVICES
    farm.folder.write_document = die
    with pytest.raises(KeyboardInterrupt):
        farm.steering.act("sample", "abort", now=farm.now)
    farm.folder.write_document = signed
    assert farm.turn() == []
    assert farm.folder.document().deployments == (farm.old,)
    assert not farm.steering.rollouts.find("sample").is_open


def test_a_host_that_leads_no_more_changes_neither_rollout_nor_document(farm: Farm):
    """Its decision isn't in the log, either."""
    rollout = farm.begin(25, 100)
    farm.report(rollout, *farm.included(), state=State.REJECTED)

    def refuse(_: object) -> None:
        raise DeviceError("not-leader", "another host leads")

    before, acts = farm.folder.document(), farm.acts()
    with pytest.raises(DeviceError):
        list(Steering(farm.folder, farm.registry, refuse).turn(farm.now))
    assert farm.acts() == acts
    assert farm.steering.rollouts.find(rollout.id).phase is Phase.RUNNING
    assert msgspec.structs.replace(farm.folder.document(), audit="") == msgspec.structs.replace(before, audit="")


def full_of(farm: Farm, monkeypatch) -> Rollout:
    """Publish another model, let the document have no space for it, and return a rollout of it that isn't recorded."""
    path = farm.repo.parent / "other.edgeml"
    path.write_bytes(samples.a_bundle(samples.a_manifest(name="other")))
    repository.publish(farm.repo, [path])
    with farm.folder.locked():
        deployment = deployments.draft(farm.folder, "other", None, selectors.parse(""), allow_empty=False)
    length = len(farm.folder.encode_document(farm.folder.document()))
    monkeypatch.setattr(desired, "FLEET_DOCUMENT_MAX_BYTES", length + 100)
    return Rollout(deployment=msgspec.structs.replace(deployment, in_waves=True), plan=Plan(waves=(10, 100)))


def test_a_rollout_that_cannot_be_signed_is_neither_recorded_nor_logged(farm: Farm, monkeypatch):
    """Its deployment doesn't fit into the document."""
    full_of(farm, monkeypatch)
    entries = farm.folder.audit.entries()
    with pytest.raises(UsageError, match="would have"):
        farm.steering.begin("other", None, selector="", plan_=Plan(waves=(10, 100)), now=NOW)
    assert farm.steering.rollouts.all() == []
    assert farm.folder.audit.entries() == entries


def test_a_rollback_that_cannot_be_signed_leaves_the_rollout_complete(farm: Farm, monkeypatch):
    """The two deployments that it would bring back don't fit into the document."""
    repository.deploy(farm.repo, "sample", "1.0", selector="site=a")
    complete = farm.complete()
    length = len(farm.folder.encode_document(farm.folder.document()))
    monkeypatch.setattr(desired, "FLEET_DOCUMENT_MAX_BYTES", length + 100)
    with pytest.raises(UsageError, match="would have"):
        farm.steering.act("sample", "rollback", now=farm.now)
    assert farm.steering.rollouts.find(complete.id) == complete


def test_a_rollout_that_cannot_be_signed_holds_up_no_other(farm: Farm, monkeypatch):
    """An earlier version recorded it, or the document has grown since. Its error comes after the others' decisions."""
    rollout = farm.begin(25, 100)
    farm.report(rollout, *farm.included(), state=State.REJECTED)
    farm.steering.rollouts.add(full_of(farm, monkeypatch))
    turn = farm.steering.turn(farm.now)
    assert next(turn)[0].phase is Phase.ABORTED
    with pytest.raises(UsageError, match="would have"):
        next(turn)
    assert farm.folder.document().deployments == (farm.old,)


def test_a_decision_that_the_database_does_not_take_is_not_logged(farm: Farm):
    """A full PostgreSQL lets itself be read alone. Each turn, a second, added an entry of a decision that never was."""
    rollout = farm.begin(25, 100)
    farm.report(rollout, *farm.included())
    entries = len(farm.acts())
    farm.registry.database.close()

    @event.listens_for(farm.registry.database.engine, "connect")
    def refuse(connection, _) -> None:
        connection.execute("PRAGMA query_only = ON")

    for _ in range(2):
        with pytest.raises(DeviceError, match="readonly"):
            farm.turn()
    with pytest.raises(DeviceError, match="readonly"):
        farm.steering.act("sample", "pause", now=farm.now)
    assert len(farm.acts()) == entries


def test_the_commands_of_rollouts(farm: Farm, capsys):
    """Deploy --waves, list, show, pause, resume, approve, abort, rollback; each refuses what makes no sense."""

    def typed(*arguments: str, json_: bool = True) -> tuple[int, object]:
        with pytest.raises(SystemExit) as ended:
            run(["fleet", *arguments, "--repo", str(farm.repo), *(["--json"] if json_ else [])])
        printed = capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(printed) if json_ else printed

    waves = ("--waves", "25%,100%", "--soak", "0s", "--abort-above", "0%", "--approve", "--wait", "2h")
    begun = typed("deploy", "sample:2.0", *waves)[1]
    assert begun["plan"]["waves"] == [25, 100]
    assert (begun["plan"]["soak_s"], begun["plan"]["abort_above"], begun["plan"]["wait_s"]) == (0, 0, 7200)
    assert [it["id"] for it in typed("rollout", "list")[1]["rollouts"]] == [begun["id"]]
    assert typed("rollout", "show", "sample")[1]["counts"] == {"silent": 4}
    assert "wave 1 of 2" in typed("rollout", "show", begun["id"], json_=False)[1]
    assert typed("rollout", "approve", "sample", "--wave", "3")[0] == 2
    for act, phase in (("pause", "paused"), ("resume", "running"), ("approve", "running"), ("abort", "aborted")):
        assert typed("rollout", act, "sample")[1]["phase"] == phase
    assert typed("rollout", "rollback", "sample")[1]["error"]["code"] == "usage"
    assert typed("rollout", "show", "nothing")[1]["error"]["code"] == "usage"
    assert "aborted" in typed("rollout", "list", json_=False)[1]
    for wrong in (
        ("--soak", "1m"),
        ("--waves", "25"),
        ("--waves", "100%,25%"),
        ("--waves", "5%", "--pin"),
        ("--waves", "5%", "--percent", "5%"),
        ("--waves", "5%", "--soak", "x"),
        ("--waves", "5%", "--hours", "x"),
    ):
        code, answer = typed("deploy", "sample", *wrong)
        assert (code, answer["error"]["code"]) == (2, "usage")
    assert farm.acts()[-5:] == ["rollout: begin", "pause", "resume", "approve", "abort"]

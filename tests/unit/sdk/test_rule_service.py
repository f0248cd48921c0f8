"""Rules on a real repository and database: what a look records, pauses and lets wait, and how notices leave."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeml import repository
from edgeml.cli.main import run as run_command
from edgeml.fleet import webhook as webhooks
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.fleet.rollouts.plan import Phase, Plan
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.rules import answers, records, saved
from edgeml.fleet.rules import service as rule_service
from edgeml.fleet.rules.answers import Action, Event
from edgeml.fleet.rules.service import RuleService
from edgeml.repository import layout
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.calls import Check, Reply
from edgeml_core.drift import Drift
from edgeml_core.errors import DeviceError, TransportError, UsageError
from edgeml_core.messages import DeviceState, ModelState
from support import samples
from support.waiting import until_async

NOW = datetime.now(UTC)


class Leading:
    """A host that leads, until it doesn't."""

    def __init__(self) -> None:
        self.is_leader = True

    async def until(self, *, is_leader: bool) -> None:
        """Lead at once."""
        if is_leader != self.is_leader:
            await asyncio.Event().wait()

    def check(self, _connection: object) -> None:
        """Fail where another host leads."""
        if not self.is_leader:
            raise DeviceError("not-leader", "another host leads")


class Kept:
    """The events of a service."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, text: str, **fields: object) -> None:
        """Keep one."""
        self.names.append(name)


@pytest.fixture
def made(tmp_path: Path):
    """A repository with a device and a release, its registry, and the service of its rules."""
    repo = tmp_path / "repo"
    repository.init(repo)
    of = samples.a_manifest(version="1.0")
    bundle = tmp_path / f"{of.stem}.edgeml"
    bundle.write_bytes(samples.a_bundle(of))
    repository.publish(repo, [bundle])
    repository.enroll(repo, "d-1", labels={}, broker_url=None, out_dir=tmp_path / "d-1")
    folder, registry = layout.opened(repo), Registry(repo / DATABASE_FILE)
    made = SimpleNamespace(repo=repo, folder=folder, registry=registry, leading=Leading(), events=Kept(), asked=[])

    def ask(device: str, kind: str, *, wait_s: float) -> Reply:
        assert wait_s <= 60.0
        made.asked.append((device, kind))
        return Reply(id="1", log=("a line",)) if kind == "logs" else Reply(checks=(Check("clock", "ok", "right"),))

    made.calls = SimpleNamespace(ask=ask)
    made.service = lambda webhook=None: RuleService(
        folder, registry, made.leading, made.events, webhook=webhook, calls=made.calls
    )
    made.records = records.Records(registry.database)
    yield made
    registry.close()


def drifts(made, grade: str) -> None:
    """Let the device report a drift."""
    model = ModelState(version="1.0", state="active", drift=Drift(grade=grade, observed=500, psi={}))
    state = DeviceState(online=True, session=1, models={"sample": model})
    made.registry.record([DeviceMessage(device="d-1", message=state, seen_s=NOW.timestamp())])


def waiting(made, target: records.Target = "mqtt") -> list[dict[str, object]]:
    """Take all notices that wait."""
    found = []
    while row := made.records.next(target):
        found.append(json.loads(row[1]))
        made.records.remove(row[0])
    return found


def test_drift_pauses_the_rollout_by_the_rule(made):
    """The audit log has the controller's pause, and stays whole; the notice says why."""
    saved.save(made.folder, Event.DRIFT_MAJOR, [Action.PAUSE, Action.NOTIFY, Action.COLLECT], now=NOW)
    service, steering = made.service(), Steering(made.folder, made.registry)
    rollout = steering.begin("sample", None, selector="", plan_=Plan(waves=(50, 100)), now=NOW)
    service.look(NOW)
    drifts(made, "major")
    assert service.look(NOW).collects == ("d-1",)
    after = steering.rollouts.find(rollout.id)
    assert (after.phase, after.reason) == (
        Phase.PAUSED, "by the rule for drift-major: d-1: sample 1.0 drifts: major")  # fmt: skip
    entry = made.folder.audit.entries()[-1]
    assert (entry.act, entry.subject, entry.actor) == ("rollout: pause", rollout.id, "controller")
    made.folder.check_audit()
    assert "d-1: sample 1.0 drifts: major" in {it["text"] for it in waiting(made)}
    assert service.look(NOW).raised == {f"rollout:{rollout.id}:": "paused"}
    steering.act(rollout.id, "resume", now=NOW)
    service.look(NOW)
    assert steering.rollouts.find(rollout.id).phase is Phase.RUNNING


def test_restarted_host_answers_nothing_again(made):
    """The database has what was answered; what waited still waits."""
    made.service().look(NOW)
    drifts(made, "major")
    assert len(made.service().look(NOW).notices) == 1
    assert made.service().look(NOW).notices == ()
    (notice,) = waiting(made)
    assert (notice["event"], notice["devices"], notice["count"], notice["fleet"]) == ("drift-major", ["d-1"], 1, "edge")


def test_host_that_leads_no_more_records_nothing(made):
    """Its successor answers."""
    made.service().look(NOW)
    drifts(made, "major")
    made.leading.is_leader = False
    with pytest.raises(DeviceError):
        made.service().look(NOW)
    made.leading.is_leader = True
    assert len(made.service().look(NOW).notices) == 1


def test_waiting_notices_are_bounded(made, monkeypatch):
    """The oldest go, for each target by itself, and the host says so."""
    monkeypatch.setattr(records, "WAITING_MAX", 3)
    bodies = [("mqtt", b"%d" % n) for n in range(5)] + [("webhook", b"9")]
    assert made.records.record({}, (), bodies, made.leading.check) == 2
    assert [made.records.next("mqtt")[1], made.records.next("webhook")[1]] == [b"2", b"9"]


def test_one_device_displaces_no_notices_of_others(made):
    """It drifts with other models at each look, by names that it makes up."""
    service = made.service()
    service.look(NOW)
    drifts(made, "major")
    for number in range(3):
        drift = Drift(grade="major", observed=9)
        models = {f"x{number}-{at}": ModelState(version="", state="", drift=drift) for at in range(900)}
        state = DeviceState(online=True, session=1, models=models)
        made.registry.record([DeviceMessage(device="hostile", message=state, seen_s=NOW.timestamp())])
        service.look(NOW)
    found = waiting(made)
    assert len([it for it in found if it["devices"] == ["hostile"]]) == rule_service.NOTICES_OF_DEVICE_MAX
    assert [it["subject"] for it in found if it["devices"] == ["d-1"]] == ["sample"]
    assert len(made.records.known()) == answers.DRIFTING_MAX + 1
    assert made.events.names == ["notices-dropped"]
    drifts(made, "moderate")
    service.look(NOW)
    drifts(made, "major")
    assert len(service.look(NOW + timedelta(hours=1)).notices) == 1
    assert len(waiting(made)) == 1


def run_until(service: RuleService, condition) -> None:
    """Run the service until a condition holds."""

    async def both() -> None:
        running = asyncio.create_task(service.run())
        await until_async(condition)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(both())


@pytest.fixture
def hook(tmp_path: Path) -> webhooks.Webhook:
    """A webhook; tests answer in its place."""
    (tmp_path / "secret").write_text("x" * 20)
    return webhooks.parse("https://hooks.example/x", tmp_path / "secret")


def test_webhook_that_is_away_gets_the_notice_later(made, hook, monkeypatch):
    """In the order of the events, each until it was taken; a refused one stops no other."""
    monkeypatch.setattr(rule_service, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(rule_service, "RETRY_MAX_S", 0.02)
    answers, taken = iter([TransportError("webhook-failed", "away"), 503, 204, 400, 200]), []

    async def post(_: object, body: bytes) -> int:
        answer = next(answers)
        if isinstance(answer, TransportError):
            raise answer
        taken.append((body, answer))
        return answer

    monkeypatch.setattr(webhooks, "post", post)
    made.records.record({}, (), [("webhook", b"1"), ("webhook", b"2"), ("webhook", b"3")], made.leading.check)
    run_until(made.service(hook), lambda: made.records.next("webhook") is None)
    assert taken == [(b"1", 503), (b"1", 204), (b"2", 400), (b"3", 200)]
    assert {"rules-failed", "notice-refused"} <= set(made.events.names)


def test_collected_log_and_checks_lie_in_the_repository(made, monkeypatch):
    """The device's last ones."""
    monkeypatch.setattr(rule_service, "LOOK_EVERY_S", 0.05)
    saved.save(made.folder, Event.DRIFT_MAJOR, [Action.COLLECT], now=NOW)
    service = made.service()
    service.look(NOW)
    drifts(made, "major")
    path = made.repo / "collected" / "d-1.json"
    run_until(service, path.exists)
    found = json.loads(path.read_bytes())
    assert (found["log"], found["checks"][0]["name"]) == (["a line"], "clock")
    assert made.asked == [("d-1", "logs"), ("d-1", "doctor")]


def test_a_device_waits_once_to_be_called(made):
    """One that is silent, and drifts in another way at each look, left no room for others."""
    service = made.service()
    for _ in range(2 * rule_service.COLLECTS_MAX):
        service._let_wait(["d-1"])
    service._let_wait(["d-2"])
    assert list(service._collects) == ["d-1", "d-2"]
    run_until(service, lambda: not service._collects)
    assert [device for device, _ in made.asked] == ["d-1", "d-1", "d-2", "d-2"]


@pytest.mark.parametrize(
    ("event", "actions", "after_s"),
    [
        (Event.SILENT, [Action.COLLECT], None),
        (Event.ROLLOUT, [Action.PAUSE], None),
        (Event.FAILED, [Action.NOTIFY], 60.0),
        (Event.SILENT, [Action.NOTIFY], 5.0),
    ],
)
def test_rules_that_make_no_sense_are_refused(made, event, actions, after_s):
    """Nothing is saved or logged."""
    before = len(made.folder.audit.entries())
    with pytest.raises(UsageError):
        saved.save(made.folder, event, actions, after_s=after_s, now=NOW)
    assert len(made.folder.audit.entries()) == before


def test_commands_set_list_and_remove_rules(made, capsys):
    """The first change begins with the default rules."""

    def said(*arguments: str) -> dict[str, dict[str, object]]:
        with pytest.raises(SystemExit) as caught:
            run_command(["fleet", "rule", *arguments, "--repo", str(made.repo), "--json"])
        assert caught.value.code == 0
        return json.loads(capsys.readouterr().out)["rules"]

    assert sorted(said("list")) == ["canary", "drift-major", "failed", "rollout", "silent"]
    assert said("set", "silent", "notify", "--after", "2h")["silent"]["after_s"] == 7200
    assert "failed" not in said("remove", "failed")
    assert [it.act for it in made.folder.audit.entries()[-2:]] == ["set rule", "remove rule"]

"""Rollouts through a real broker and `edgeml fleet serve` as a process, to many reporting devices."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from edgeml import repository
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from support import brokers, postgresql, samples
from support.plain_http import NO_TLS
from support.programs import agent_command, enroll, host_command, programs
from support.reporting_devices import ReportingDevices
from support.scale import scaled
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

FLEET = "farm"
#: The model's versions, of which the second is bad.
MODEL, OLD, BAD, GOOD = "sample", "1.0", "2.0", "3.0"
DEVICES = scaled(200, 12)
NAMES = [f"pi-{number}" for number in range(DEVICES)]
#: How often hosts are killed in a rollout.
KILLS = 20
SOAK_S = 0.5
#: Of the rollout in which hosts are killed: three soaks last about as long as the kills.
KILLED_SOAK_S = 20.0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A repository with three versions; all devices run the first."""
    folder = tmp_path_factory.mktemp("farm")
    repository.init(folder / "repo", fleet=FLEET)
    for version in (OLD, BAD, GOOD):
        of = samples.a_manifest(version=version)
        path = folder / f"{of.stem}.edgeml"
        path.write_bytes(samples.a_bundle(of))
        repository.publish(folder / "repo", [path])
    for name in NAMES:
        repository.enroll(folder / "repo", name, labels={}, broker_url=None, out_dir=folder / name)
    repository.deploy(folder / "repo", MODEL, OLD, selector="")
    return folder / "repo"


@pytest.fixture
def repo(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "repo")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[brokers.Mosquitto]:
    """A broker."""
    with brokers.mosquitto(tmp_path / "broker") as running:
        yield running


def begin(fleet: Fleet, version: str, soak_s: float) -> Rollout:
    """Begin a rollout of three waves."""
    return fleet.roll_out(MODEL, version, plan=Plan(waves=(25, 50, 100), soak_s=soak_s))


def ended(fleet: Fleet, rollout: Rollout) -> Rollout:
    """Wait until a rollout has ended."""
    until(lambda: fleet.rollout(rollout.id)[0].phase in ENDED, "the end of the rollout")
    return fleet.rollout(rollout.id)[0]


def test_bad_version_stops_in_its_first_wave_and_every_touched_device_is_back(repo: Path, broker: brokers.Mosquitto):
    """Of a quarter of the devices; nobody else ever saw it, and the log has each decision."""
    with programs() as hosts, ReportingDevices(broker.port, FLEET, NAMES, bad={BAD}) as devices:
        hosts.start(repo.parent / "host.log", *host_command(repo, broker.url))
        until(lambda: devices.all_serve(OLD), "the first version")
        bad = ended(Fleet(repo), begin(Fleet(repo), BAD, SOAK_S))
        until(lambda: not devices.wants(BAD) and devices.all_serve(OLD), "all back")
    assert (bad.phase, bad.wave) == (Phase.ABORTED, 0)
    assert "golden-mismatch" in bad.reason
    assert 0 < len(devices.reached(BAD)) <= DEVICES // 4
    assert [it.version for it in repository.opened(repo).document().deployments] == [OLD]
    assert acts(repo, bad) == ["roll out", "rollout: begin", "rollout: abort"]


@pytest.mark.nightly
@pytest.mark.parametrize("count", [1, 2])
def test_rollout_goes_on_through_kills_of_its_hosts(repo: Path, broker: brokers.Mosquitto, count: int):
    """One host on SQLite, or two on PostgreSQL, of which any is killed: no wave begins early, twice or never."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgresql.postgresql()).url if count > 1 else None
        options = ("--database", database) if database else ()
        hosts = stack.enter_context(programs())
        devices = stack.enter_context(ReportingDevices(broker.port, FLEET, NAMES))
        for _ in range(count):
            hosts.start(repo.parent / "host.log", *host_command(repo, broker.url), *options)
        until(lambda: devices.all_serve(OLD), "the first version")
        fleet = Fleet(repo, database=database)
        good = begin(fleet, GOOD, KILLED_SOAK_S)
        moments = random.Random(1)  # noqa: S311 - no secret
        kills = 0
        while kills < KILLS and fleet.rollout(good.id)[0].phase not in ENDED:
            time.sleep(moments.uniform(0.1, 3))
            kills += 1
            hosts.pop(moments.randrange(count)).kill()
            hosts.start(repo.parent / "host.log", *host_command(repo, broker.url), *options)
        assert ended(fleet, good).phase is Phase.COMPLETED
        until(lambda: devices.all_serve(GOOD), "the good version")
    assert kills > KILLS // 2
    assert devices.shares[GOOD] == sorted(devices.shares[GOOD])
    found = acts(repo, good)
    assert found[:2] == ["roll out", "rollout: begin"]
    assert found[-1] == "rollout: complete"
    # A host that dies between log and database leaves its decision in the log, and the next one decides again.
    assert [it for it, _ in itertools.groupby(found[1:])] == ["rollout: begin", "rollout: soak"] * 3 + [
        "rollout: complete"
    ]


def acts(repo: Path, rollout: Rollout) -> list[str]:
    """The acts about a rollout in the audit log, which is whole."""
    opened = repository.opened(repo)
    opened.check_audit()
    return [it.act for it in opened.audit.entries() if it.subject == rollout.id]


@pytest.mark.nightly
def test_three_agents_go_back_from_a_bad_model_and_stop_serving_one_that_is_removed(tmp_path: Path):
    """With real models over HTTP: the old one answers all the time, and none after the removal."""
    names = ["pi-1", "pi-2", "pi-3"]
    repository.init(tmp_path / "repo", fleet=FLEET)
    for version, fault in (("1.0", "none"), ("2.0", "wrong golden")):
        tiny_onnx_bundle(tmp_path / f"{version}.edgeml", version=version, fault=fault)
        repository.publish(tmp_path / "repo", [tmp_path / f"{version}.edgeml"])
    with brokers.mosquitto(tmp_path / "broker") as broker, programs() as started:
        started.start(tmp_path / "host.log", *host_command(tmp_path / "repo", broker.url))
        for name in names:
            config = enroll(tmp_path / "repo", name, broker.url, tmp_path / name)
            started.start(tmp_path / f"{name}.log", *agent_command(config))
        repository.deploy(tmp_path / "repo", "tiny", "1.0", selector="")
        until(lambda: all(answers(tmp_path, it) for it in names), "the first version everywhere")
        plan = Plan(waves=(34, 100), soak_s=SOAK_S)
        bad = Fleet(tmp_path / "repo").roll_out("tiny", "2.0", plan=plan)
        until(lambda: Fleet(tmp_path / "repo").rollout(bad.id)[0].phase in ENDED, "the end of the rollout")
        found, devices = Fleet(tmp_path / "repo").rollout(bad.id)
        assert found.phase is Phase.ABORTED
        assert [it.code for it in devices if it.code] == ["golden-mismatch"]
        until(lambda: states(tmp_path) == [{"active": 3}], "all back")
        assert all(answers(tmp_path, it) for it in names)
        repository.Repository.open(tmp_path / "repo").undeploy("tiny")
        until(lambda: states(tmp_path) == [{"removed": 3}], "the removal")
        assert not any(answers(tmp_path, it) for it in names)
        assert not any(list((tmp_path / name / "store" / "releases").iterdir()) for name in names)


def states(folder: Path) -> list[Mapping[str, int]]:
    """How many devices are in which state, by deployment: the bad one leaves a moment after its rollout has ended."""
    return [it.states for it in Fleet(folder / "repo").status().deployments]


def answers(folder: Path, name: str) -> bool:
    """Whether a device's model answers 10 with 21."""
    found = re.findall(r'listening http="([^"]+)"', (folder / f"{name}.log").read_text())
    if not found:
        return False
    try:
        url = f"http://{found[-1]}/v1/models/tiny/predict"
        reply = httpx.post(url, json={"inputs": {"x": [[10.0, 0.0, 0.0, 0.0]]}}, timeout=TIMEOUT_S, verify=NO_TLS)
    except httpx.HTTPError:
        return False
    return reply.status_code == 200 and "21.0" in reply.text

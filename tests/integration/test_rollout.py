"""Rollouts through a real broker and `edgeml fleet serve` as a process, to many reporting devices."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgeml import repository
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from support import brokers, samples
from support.plain_http import NO_TLS
from support.programs import Program, agent_command, enroll, host_command, programs
from support.reporting_devices import ReportingDevices
from support.scale import scaled
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

FLEET = "farm"
DEVICES = scaled(200, 12)
#: How often the host is killed in a rollout.
KILLS = scaled(20, 1)
SOAK_S = 0.5
#: Of the rollout in which the host is killed: by night three soaks last as long as the kills.
KILLED_SOAK_S = scaled(20, 1)


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A repository with three versions; all devices run the first."""
    folder = tmp_path_factory.mktemp("farm")
    repository.init(folder / "repo", fleet=FLEET)
    for version in ("1.0", "2.0", "3.0"):
        of = samples.a_manifest(version=version)
        path = folder / f"{of.stem}.edgeml"
        path.write_bytes(samples.a_bundle(of))
        repository.publish(folder / "repo", [path])
    for number in range(DEVICES):
        name = f"pi-{number}"
        repository.enroll(folder / "repo", name, labels={}, broker_url=None, out_dir=folder / name)
    repository.deploy(folder / "repo", "sample", "1.0", selector="")
    return folder / "repo"


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[brokers.Mosquitto]:
    """A broker for the module."""
    with brokers.mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


def serve(repo: Path, broker: brokers.Mosquitto) -> Program:
    """Start the host."""
    return Program(repo.parent / "host.log", *host_command(repo, broker.url))


def begin(repo: Path, version: str, soak_s: float) -> Rollout:
    """Begin a rollout of three waves."""
    return Fleet(repo).roll_out("sample", version, plan=Plan(waves=(25, 50, 100), soak_s=soak_s))


def ended(repo: Path, rollout: Rollout) -> Rollout:
    """Wait until a rollout has ended."""
    until(lambda: Fleet(repo).rollout(rollout.id)[0].phase in ENDED, "the end of the rollout")
    return Fleet(repo).rollout(rollout.id)[0]


def test_bad_version_stops_in_its_first_wave_and_a_good_one_survives_kills_of_the_host(
    repo: Path, broker: brokers.Mosquitto
):
    """Every touched device is back, nobody else ever saw it; the next version's waves go on through the kills."""
    host = serve(repo, broker)
    names = [f"pi-{number}" for number in range(DEVICES)]
    try:
        with ReportingDevices(broker.port, FLEET, names, bad={"2.0"}) as devices:
            until(lambda: devices.all_serve("1.0"), "the first version")
            bad = ended(repo, begin(repo, "2.0", SOAK_S))
            assert (bad.phase, bad.wave) == (Phase.ABORTED, 0)
            assert "golden-mismatch" in bad.reason
            until(lambda: devices.all_serve("1.0") and not repository.opened(repo).document().deployments[1:], "back")
            assert 0 < len(devices.reached("2.0")) <= DEVICES // 4
            good = begin(repo, "3.0", KILLED_SOAK_S)
            host = killed_in_between(repo, broker, host, good)
            assert ended(repo, good).phase is Phase.COMPLETED
            until(lambda: devices.all_serve("3.0"), "the good version")
            assert devices.shares["3.0"] == sorted(devices.shares["3.0"])
    finally:
        host.kill()
    check_log(repo, bad, good)


def killed_in_between(repo: Path, broker: brokers.Mosquitto, host: Program, rollout: Rollout) -> Program:
    """Kill the host at random moments of a rollout, and start it again."""
    moments = random.Random(1)  # noqa: S311 - no secret
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.1, 1.5))
        if Fleet(repo).rollout(rollout.id)[0].phase in ENDED:
            break
        host.kill()
        host = serve(repo, broker)
        until(lambda log=host.log: "announced" in log.read_text(), "the announcement")
    return host


def check_log(repo: Path, bad: Rollout, good: Rollout) -> None:
    """Check the audit log: whole, with each decision once."""
    opened = repository.opened(repo)
    head, anchor = opened.check_audit()
    assert head.number >= anchor.number
    entries = opened.audit.entries()
    acts = {it.id: [entry.act for entry in entries if entry.subject == it.id] for it in (bad, good)}
    assert acts[bad.id] == ["roll out", "rollout: begin", "rollout: abort"]
    assert acts[good.id][:2] == ["roll out", "rollout: begin"]
    assert acts[good.id].count("rollout: begin") == 3
    assert acts[good.id][-1] == "rollout: complete"


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
        until(lambda: states(tmp_path) == {"active": 3}, "all back")
        assert all(answers(tmp_path, it) for it in names)
        repository.Repository.open(tmp_path / "repo").undeploy("tiny")
        until(lambda: states(tmp_path) == {"removed": 3}, "the removal")
        assert not any(answers(tmp_path, it) for it in names)
        assert not any(list((tmp_path / name / "store" / "releases").iterdir()) for name in names)


def states(folder: Path) -> dict[str, int]:
    """How many devices are in which state of the only deployment."""
    [deployment] = Fleet(folder / "repo").status().deployments
    return deployment.states


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

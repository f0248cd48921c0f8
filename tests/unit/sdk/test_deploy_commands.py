"""The fleet's commands, as they are typed: answers in JSON, errors with their exit codes and a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeml.cli.main import run
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report
from support import samples


@pytest.fixture
def typed(tmp_path: Path, monkeypatch, capsys):
    """Type a command in a fresh folder that has a bundle; get its exit code and its JSON."""
    monkeypatch.chdir(tmp_path)
    Path("sample.edgeml").write_bytes(samples.a_bundle())

    def type_in(*arguments: str) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as ended:
            run([*arguments, "--json"])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out.splitlines()[-1])

    return type_in


def test_the_way_of_a_release_to_a_device(typed):
    """init, publish, enroll, deploy, status, devices, refresh, export: each answers with what it did."""
    assert typed("repo", "init", "repo", "--fleet", "farm", "--no-passphrase") == (0, {"repo": "repo", "fleet": "farm"})
    assert typed("publish", "sample.edgeml", "--repo", "repo")[1]["releases"][0]["added"]
    enroll = ("device", "enroll", "pi-1", "--repo", "repo", "--broker", "mqtt://farm.example", "--label", "site=a")
    assert typed(*enroll, "-o", "pi-1")[1]["config"] == "pi-1/agent.toml"
    deployed = typed("fleet", "deploy", "sample:1.0", "--repo", "repo", "--to", "site=a", "--percent", "25%")[1]
    assert (deployed["version"], deployed["selector"], deployed["percent"]) == ("1.0", "site=a", 25.0)
    assert typed("fleet", "deploy", "sample", "--repo", "repo", "--to", "site=a")[1]["id"] == deployed["id"]
    assert typed("fleet", "status", "--repo", "repo")[1]["deployments"][0]["states"] == {"silent": 1}
    assert typed("fleet", "devices", "--repo", "repo")[1]["devices"][0]["labels"] == {"site": "a"}
    assert len(typed("repo", "refresh", "--repo", "repo")[1]["repositories"]) == 2
    assert typed("repo", "export", "stick", "--repo", "repo", "--site", "a")[1]["devices"] == ["pi-1"]


def test_a_model_leaves_devices_and_a_pin_holds_one(typed):
    """`deploy --device --pin`, `undeploy`, `unpin`: each names its deployment."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    for device in ("pi-1", "pi-2"):
        typed("device", "enroll", device, "--repo", "repo", "-o", device)
    pin = typed("fleet", "deploy", "sample", "--repo", "repo", "--device", "pi-1", "--pin")[1]
    assert (pin["selector"], pin["pinned"], pin["devices"]) == ("device=pi-1", True, ["pi-1"])
    removed = typed("fleet", "undeploy", "sample", "--repo", "repo")[1]
    assert removed["devices"] == ["pi-2"]
    status = typed("fleet", "status", "--repo", "repo")[1]
    assert [it["version"] for it in status["deployments"]] == ["1.0", ""]
    assert typed("fleet", "unpin", "sample", "--repo", "repo", "--device", "pi-1") == (0, {"deployments": [pin["id"]]})


def test_a_selector_is_saved_under_a_name_and_expanded_when_it_is_signed(typed):
    """Another one under the same name changes no deployment; an unknown name is refused with those that exist."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    typed("device", "enroll", "pi-1", "--repo", "repo", "-o", "pi-1", "--label", "site=a")
    saved = typed("fleet", "selector", "set", "barns", "site in (b, a)", "--repo", "repo")[1]
    assert saved == {"selectors": {"barns": "site in (a,b)"}}
    typed("fleet", "selector", "set", "new", "@barns", "--repo", "repo")
    deployed = typed("fleet", "deploy", "sample", "--repo", "repo", "--to", "@barns", "--to", "!old")[1]
    assert deployed["selector"] == "!old,site in (a,b)"
    typed("fleet", "selector", "set", "barns", "site=c", "--repo", "repo")
    assert typed("fleet", "status", "--repo", "repo")[1]["deployments"][0]["selector"] == "!old,site in (a,b)"
    assert typed("fleet", "selector", "remove", "barns", "--repo", "repo")[1] == {"selectors": {"new": "site in (a,b)"}}
    assert list(typed("fleet", "selector", "list", "--repo", "repo")[1]["selectors"]) == ["new"]
    for wrong in (
        ("deploy", "sample", "--to", "@barns"),
        ("selector", "remove", "barns"),
        ("selector", "set", "X", ""),
    ):
        code, answer = typed("fleet", *wrong, "--repo", "repo")
        assert (code, answer["error"]["code"]) == (2, "usage")


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("publish", "sample.edgeml", "--repo", "nowhere"), "repo-invalid", 2),
        (("publish", "absent.edgeml", "--repo", "repo"), "usage", 2),
        (("publish", "broken.edgeml", "--repo", "repo"), "bundle-format", 4),
        (("device", "enroll", "Pi", "--repo", "repo", "-o", "pi"), "usage", 2),
        (("device", "enroll", "pi", "--repo", "repo", "-o", "pi", "--label", "x"), "usage", 2),
        (("fleet", "deploy", "sample", "--repo", "repo"), "release-unknown", 2),
        (("fleet", "deploy", "sample", "--repo", "repo", "--percent", "200%"), "usage", 2),
        (("fleet", "deploy", "sample", "--repo", "repo", "--percent", "1"), "usage", 2),
        (("fleet", "deploy", "sample", "--repo", "repo", "--to", "site="), "usage", 2),
        (("fleet", "undeploy", "sample", "--repo", "repo"), "usage", 2),
        (("fleet", "unpin", "sample", "--repo", "repo"), "usage", 2),
        (("fleet", "serve", "--repo", "repo", "--broker", "http://farm.example"), "usage", 2),
        (("fleet", "serve", "--repo", "repo", "--broker", "mqtts://farm.example", "--ca", "no.pem"), "usage", 2),
        (("fleet", "serve", "--repo", "repo", "--broker", "mqtt://127.0.0.1:1"), "broker-unreachable", 5),
        (("repo", "init", "repo", "--no-passphrase"), "usage", 2),
    ],
)
def test_errors_have_their_exit_code_and_a_remedy(typed, arguments: tuple[str, ...], code: str, exit_code: int):
    """Each wrong input gets the documented code, and a hint."""
    typed("repo", "init", "repo", "--no-passphrase")
    Path("broken.edgeml").write_bytes(b"not a bundle")
    found_exit, answer = typed(*arguments)
    assert (found_exit, answer["error"]["code"]) == (exit_code, code)
    assert answer["error"]["hint"] or code == "bundle-format"


def test_people_get_tables(typed, capsys):
    """Without --json the status is a line for each deployment, the devices one for each device."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    typed("device", "enroll", "pi-1", "--repo", "repo", "-o", "pi-1")
    typed("fleet", "deploy", "sample", "--repo", "repo")
    for arguments, words in (("status", "0 of 1 device(s) online"), ("devices", "never")):
        with pytest.raises(SystemExit):
            run(["fleet", arguments, "--repo", "repo"])
        assert words in capsys.readouterr().out


def test_devices_that_have_ended_a_deployment_are_named_and_try_again(typed, capsys):
    """The same command changes nothing for them; `--again` makes the next attempt for the same devices."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    typed("device", "enroll", "pi-1", "--repo", "repo", "-o", "pi-1")
    deploy = ("fleet", "deploy", "sample", "--repo", "repo")
    first = typed(*deploy)[1]
    report = Report(
        deployment=first["id"], name="sample", version="1.0", state=State.ROLLED_BACK, session=1, code="probe-crashed"
    )
    registry = Registry(Path("repo") / DATABASE_FILE)
    registry.record([DeviceMessage(device="pi-1", message=report, seen_s=1.0)])
    registry.close()
    with pytest.raises(SystemExit):
        run([*deploy])
    assert "don't try it again: pi-1 (probe-crashed); use --again" in capsys.readouterr().err
    second, third = (typed(*deploy, "--again")[1] for _ in range(2))
    assert (second["id"], third["id"]) == (f"{first['id']}~2", f"{first['id']}~3")
    assert typed(*deploy)[1]["id"] == third["id"]
    assert [it["id"] for it in typed("fleet", "status", "--repo", "repo")[1]["deployments"]] == [third["id"]]


def test_a_broken_registry_does_not_hide_that_a_release_was_deployed(typed, capsys):
    """The deployment is signed by then."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    (Path("repo") / DATABASE_FILE).write_bytes(b"no database " * 1000)
    with pytest.raises(SystemExit) as ended:
        run(["fleet", "deploy", "sample", "--repo", "repo"])
    printed = capsys.readouterr()
    assert not ended.value.code
    assert printed.out.startswith("deployed sample 1.0")
    assert "warning: what devices have reported can't be read" in printed.err


def test_withdrawn_release_is_named_until_another_is_deployed(typed, capsys):
    """At the withdrawal by its deployment, and afterwards by each device that serves it."""
    typed("repo", "init", "repo", "--no-passphrase")
    typed("publish", "sample.edgeml", "--repo", "repo")
    typed("device", "enroll", "pi-1", "--repo", "repo", "-o", "pi-1")
    first = typed("fleet", "deploy", "sample", "--repo", "repo")[1]
    model = ModelState(version="1.0", state=State.ACTIVE, target="rpi4", format="onnx")
    registry = Registry(Path("repo") / DATABASE_FILE)
    state = DeviceState(online=True, session=1, models={"sample": model})
    registry.record([DeviceMessage(device="pi-1", message=state, seen_s=1.0)])
    registry.close()
    assert typed("fleet", "status", "--repo", "repo")[1]["withdrawn"] == []
    withdrawn = typed("repo", "withdraw", "sample:1.0", "--repo", "repo")[1]
    assert withdrawn == {"name": "sample", "versions": ["1.0"], "deployments": [first["id"]]}
    with pytest.raises(SystemExit):
        run(["fleet", "status", "--repo", "repo"])
    assert "pi-1: serves sample 1.0, which is withdrawn" in capsys.readouterr().out
    assert typed("fleet", "deploy", "sample", "--repo", "repo")[1]["error"]["code"] == "release-withdrawn"
    assert typed("repo", "withdraw", "sample", "--repo", "repo")[1]["error"]["code"] == "usage"

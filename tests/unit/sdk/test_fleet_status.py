"""`edgeml fleet status` and `devices`: choices, ages, hosts, pages, and again and again."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgeml
from edgeml import repository
from edgeml.cli import fleet_tables
from edgeml.cli.fleet import fleet as commands
from edgeml.cli.output import Output
from edgeml.fleet import status
from edgeml.fleet.leadership import Election
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.repository.deployments import deploy
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.messages import DeviceState, ModelState, Report
from support import samples

ACTIVE = {"sample": ModelState(version="1.0", state="active")}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four devices: well, failed, away for an hour, never seen; the last one has no deployment."""
    folder = tmp_path_factory.mktemp("fleet")
    repo = folder / "repo"
    repository.init(repo)
    (folder / "sample.edgeml").write_bytes(samples.a_bundle())
    repository.publish(repo, [folder / "sample.edgeml"])
    for device, site in (("pi-1", "a"), ("pi-2", "a"), ("pi-3", "a"), ("pi-4", "b")):
        repository.enroll(repo, device, labels={"site": site}, broker_url=None, out_dir=folder / device)
    deploy(repo, "sample", selector="site=a")
    (deployment,) = repository.opened(repo).document().deployments
    rejected = Report(
        deployment=deployment.id, name="sample", version="1.0", state="rejected", session=1, code="digest-mismatch"
    )
    now_s = time.time()
    registry = Registry(repo / DATABASE_FILE)
    registry.record(
        [
            DeviceMessage(device="pi-1", message=DeviceState(online=True, session=1, models=ACTIVE), seen_s=now_s),
            DeviceMessage(device="pi-2", message=DeviceState(online=True, session=1), seen_s=now_s - 200),
            DeviceMessage(device="pi-2", message=rejected, seen_s=now_s - 200),
            DeviceMessage(device="pi-3", message=DeviceState(online=False, session=1), seen_s=now_s - 7200),
        ]
    )
    registry.close()
    return repo


def shown(*arguments: str) -> str:
    """The output of a command; its error is raised."""
    return CliRunner().invoke(commands, arguments, catch_exceptions=False, terminal_width=200).output


@pytest.mark.parametrize(
    ("state", "labels", "found"),
    [
        ("", {}, ["pi-1", "pi-2", "pi-3", "pi-4"]),
        ("", {"site": "b"}, ["pi-4"]),
        ("failed", {}, ["pi-2"]),
        ("rejected", {"site": "a"}, ["pi-2"]),
        ("active", {}, ["pi-1"]),
        ("silent", {}, ["pi-3"]),
        ("online", {}, ["pi-1", "pi-2"]),
        ("offline", {}, ["pi-3", "pi-4"]),
        ("well", {}, ["pi-1"]),
        ("unwell", {"site": "a"}, ["pi-2", "pi-3"]),
    ],
)
def test_devices_are_chosen_by_state_and_labels(repo: Path, state: str, labels: dict[str, str], found: list[str]):
    """In the command line as in Python."""
    assert [it.id for it in edgeml.Fleet(repo).devices(state=state, labels=labels)] == found
    options = [*(("--state", state) if state else ()), *(f"--label={key}={value}" for key, value in labels.items())]
    printed = json.loads(shown("devices", "--repo", str(repo), *options, "--json"))
    assert [it["id"] for it in printed["devices"]] == found


def test_devices_come_in_pages(repo: Path, monkeypatch: pytest.MonkeyPatch):
    """Each begins behind the last device of the one before, also where a page takes several reads."""
    monkeypatch.setattr(status, "BLOCK_DEVICES", 10)
    pages, after = [], ""
    while page := status.devices(repo, after=after, limit=2, chosen=status.Chosen(state="")):
        pages.append([it.id for it in page])
        after = page[-1].id
    assert pages == [["pi-1", "pi-2"], ["pi-3", "pi-4"]]
    assert [it.id for it in status.devices(repo, limit=1, chosen=status.Chosen(state="offline"))] == ["pi-3"]


def test_status_says_who_serves_who_is_not_well_and_since_when(repo: Path):
    """Nobody, first; then a host."""
    lines = shown("status", "--repo", str(repo)).splitlines()
    assert lines[0] == "fleet edge: 2 of 4 device(s) online; no host is serving: start edgeml fleet serve"
    rows = {line.split()[0]: line for line in lines if line.startswith("pi-")}
    assert "3 min ago" in rows["pi-2"] or "digest-mismatch" in rows["pi-2:"]
    assert rows.keys() == {"pi-2", "pi-3", "pi-4", "pi-2:"}
    assert ("2 h ago" in rows["pi-3"], "never" in rows["pi-4"]) == (True, True)
    registry = Registry(repo / DATABASE_FILE)
    asyncio.run(Election(registry.database, "web-1").turn())
    first = shown("status", "--repo", str(repo), "--state", "failed").splitlines()[0]
    assert first.startswith("fleet edge: 2 of 4 device(s) online; served by web-1 (leads), seen ")
    value = json.loads(shown("status", "--repo", str(repo), "--state", "failed", "--json"))
    assert [it["name"] for it in value["hosts"]] == ["web-1"]
    assert [it["id"] for it in value["listed"]] == ["pi-2"]
    registry.close()


def test_a_state_that_no_device_can_have_is_refused(repo: Path):
    """A typing error would be an empty list otherwise; so would a malformed label."""
    for options in (("--state", "faild"), ("--label", "site")):
        for name in ("status", "devices"):
            with pytest.raises(UsageError):
                shown(name, "--repo", str(repo), *options)


@pytest.mark.parametrize("as_json", [True, False])
def test_watch_goes_on_where_the_database_fails(as_json: bool, capsys: pytest.CaptureFixture[str]):
    """Its error stands in the place of the status; an interruption is the end, not a failure."""
    answers = [({"online": 1}, "one"), DeviceError("store-failed", "gone", ""), ({"online": 2}, "two")]

    def read() -> tuple[dict[str, object], str]:
        if not answers:
            raise KeyboardInterrupt
        answer = answers.pop(0)
        if isinstance(answer, DeviceError):
            raise answer
        return answer

    fleet_tables.watch(Output(as_json=as_json, quiet=False), read, 0.0)
    printed = capsys.readouterr().out
    assert answers == []
    if as_json:
        assert [json.loads(it).get("online") for it in printed.splitlines()] == [1, None, 2]
    else:
        assert "two" in printed


def test_long_lists_are_cut_with_their_number(monkeypatch: pytest.MonkeyPatch, repo: Path):
    """A fleet of thousands doesn't flood the terminal."""
    monkeypatch.setattr(fleet_tables, "SHOWN_MAX", 1)
    assert "and 2 more device(s): edgeml fleet devices prints all" in shown("status", "--repo", str(repo))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7300, "2 h ago"), (900_000, "10 day(s) ago")],
)
def test_ages_are_in_their_largest_unit(seconds: float, text: str):
    """A clock that is behind shows no negative ages."""
    assert fleet_tables.age(seconds) == text

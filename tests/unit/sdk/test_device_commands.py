"""`edgeml device` as it is typed: labels changed, devices listed, revoked and replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeml import Repository
from edgeml.cli.main import run


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Type a command in a folder with a repository of one device; get its exit code and its output."""
    monkeypatch.chdir(tmp_path)
    Repository.init("repo", fleet="farm", passphrase="").enroll("pi-1", labels={"site": "barn"}, output="pi-1")

    def type_in(*args: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            run(["device", *args, "--repo", "repo"])
        return int(ended.value.code or 0), capsys.readouterr().out

    return type_in


@pytest.fixture
def typed(printed):
    """Type a command; get its exit code and its JSON."""

    def type_in(*args: str) -> tuple[int, dict]:
        code, out = printed(*args, "--json")
        return code, json.loads(out.splitlines()[-1])

    return type_in


def test_labels_are_added_replaced_and_removed(typed):
    """Several in one command, with commas or not."""
    assert typed("relabel", "pi-1", "ring=early,site=mill")[1]["labels"] == {"site": "mill", "ring": "early"}
    code, shown = typed("relabel", "pi-1", "target=rpi4", "ring-")
    assert (code, shown["labels"], shown["version"]) == (0, {"site": "mill", "target": "rpi4"}, 3)


@pytest.mark.parametrize("changes", [["x"], ["site"], ["site=a", "site-"], ["Ring=a"], ["ring-"]])
def test_changes_that_make_no_sense_are_refused(typed, changes: list[str]):
    """Nothing is signed."""
    code, error = typed("relabel", "pi-1", *changes)
    assert (code, error["error"]["code"]) == (2, "usage")
    assert typed("show", "pi-1")[1]["version"] == 1


def test_device_is_revoked_listed_and_replaced(typed, tmp_path: Path):
    """The list has revoked devices, too."""
    assert typed("revoke", "pi-1")[1]["revoked"] is True
    (listed,) = typed("list")[1]["devices"]
    assert (listed["id"], listed["revoked"]) == ("pi-1", True)
    assert typed("replace", "pi-1", "-o", "new")[0] == 0
    assert (tmp_path / "new" / "agent.toml").is_file()
    assert typed("show", "pi-1")[1] == {
        "id": "pi-1", "labels": {"site": "barn"}, "groups": [], "version": 3, "revoked": False, "deployments": [],
    }  # fmt: skip


def test_text_names_labels_and_state(printed):
    """As people read it."""
    printed("revoke", "pi-1")
    for args, found in ((("list",), "revoked"), (("show", "pi-1"), "pi-1: version 2, revoked")):
        code, text = printed(*args)
        assert (code, found in text, "site=barn" in text) == (0, True, True)
    assert printed("show", "pi-2")[0] == 2

"""The audit log: what it finds, and what it can't."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.cli.main import run
from edgeml.repository import audit, layout
from edgeml.repository.audit import AddedEntries, AuditLog, Head
from edgeml_core.errors import RejectedError, UsageError

NOW = datetime(2026, 11, 30, 9, 50, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """A log of five entries."""
    made = AuditLog(tmp_path / "audit.jsonl")
    for number in range(1, 6):
        made.append("deploy", f"m-{number}", {"selector": "site=a", "percent": 5.0, "left out": None}, now=NOW)
    return made


def lines(log: AuditLog) -> list[bytes]:
    return list(log.lines())


def test_entries_are_numbered_chained_and_canonical(log: AuditLog):
    """An empty log has the head 0."""
    entries = log.entries()
    assert [it.number for it in entries] == [1, 2, 3, 4, 5]
    assert entries[0].before == audit.NOTHING
    assert entries[0].details == {"percent": "5.0", "selector": "site=a"}
    assert "@" in entries[0].actor
    assert audit.check(lines(log), log.head(), Head()) == log.head()
    assert audit.check([]) == Head() == audit.parse_head("")
    assert audit.parse_head(str(log.head())) == log.head()


@pytest.mark.parametrize("at", range(5))
def test_an_altered_entry_is_found(log: AuditLog, at: int):
    """By the entry after it; the last one by the head."""
    changed = lines(log)
    changed[at] = changed[at].replace(b"site=a", b"site=b")
    with pytest.raises(RejectedError, match=rf"entry {min(at + 2, 5)}\b"):
        audit.check(changed, log.head())


@pytest.mark.parametrize("at", range(5))
def test_a_removed_entry_is_found(log: AuditLog, at: int):
    """In the middle by the numbers, at the end by the head."""
    changed = lines(log)
    del changed[at]
    with pytest.raises(RejectedError, match="missing"):
        audit.check(changed, log.head())


@pytest.mark.parametrize("at", range(4))
def test_entries_in_another_order_are_found(log: AuditLog, at: int):
    """Two neighbours swapped."""
    changed = lines(log)
    changed[at], changed[at + 1] = changed[at + 1], changed[at]
    with pytest.raises(RejectedError, match="missing or moved"):
        audit.check(changed, log.head())


def test_a_log_that_was_made_up_again_is_found_by_an_earlier_head_alone(log: AuditLog, tmp_path: Path):
    """A chain has no secret: a whole new one is right by itself."""
    other = AuditLog(tmp_path / "other.jsonl")
    for number in range(1, 7):
        other.append("deploy", f"x-{number}", {}, now=NOW)
    assert audit.check(lines(other)).number == 6
    with pytest.raises(RejectedError, match="signed or printed"):
        audit.check(lines(other), log.head())


@pytest.mark.parametrize("change", [b" ", b"x", b'{"number":6}'])
def test_a_line_in_another_form_is_found(log: AuditLog, change: bytes):
    """Also one that says the same."""
    changed = [*lines(log)[:4], lines(log)[4] + change]
    with pytest.raises(RejectedError) as caught:
        audit.check(changed)
    assert caught.value.code == "audit-broken"


def test_a_torn_last_line_is_left_out_and_written_over(log: AuditLog, tmp_path: Path):
    """A power cut amid a write: the act wasn't signed yet."""
    path = tmp_path / "audit.jsonl"
    with path.open("ab") as file:
        file.write(b'{"number":6,"ti')
    assert len(lines(log)) == 5
    log.append("deploy", "m-6", {}, now=NOW)
    assert audit.check(lines(log), log.head()).number == 6


@pytest.mark.parametrize("text", ["1", "x:" + "0" * 64, "1:00", "1:" + "g" * 64])
def test_malformed_heads_are_refused(text: str):
    """With the command that prints one."""
    with pytest.raises(UsageError, match="no head"):
        audit.parse_head(text)


def test_acts_on_a_repository_are_logged_before_they_are_signed(tmp_path: Path):
    """The next signed document names the head; a device's act signs no document."""
    repo = tmp_path / "repo"
    repository.init(repo)
    repository.enroll(repo, "one", labels={"site": "a"}, broker_url=None, out_dir=tmp_path / "one")
    opened = repository.opened(repo)
    [init, enroll] = opened.audit.entries()
    assert (init.act, init.subject, enroll.act, enroll.subject) == ("init", "edge", "enroll", "one")
    assert enroll.details["labels"] == "site=a"
    opened.write_document(opened.document(), NOW)
    assert opened.document().audit == str(opened.audit.head())


def test_act_that_cannot_be_logged_is_not_signed(tmp_path: Path):
    """As with a full disk: nothing happens that the log doesn't have."""
    repo = tmp_path / "repo"
    repository.init(repo)
    opened = repository.opened(repo)
    before = opened.fleet.version()
    (repo / "audit.jsonl").unlink()
    (repo / "audit.jsonl").mkdir()
    with pytest.raises(UsageError, match="can't be written"):
        repository.enroll(repo, "one", labels={}, broker_url=None, out_dir=tmp_path / "one")
    assert opened.fleet.version() == before
    assert not opened.records.all()
    assert not (tmp_path / "one").exists()


def typed(capsys, *arguments: str) -> tuple[int, dict]:
    """The exit code and the JSON of a command."""
    with pytest.raises(SystemExit) as ended:
        run(["fleet", "audit", *arguments, "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_the_log_is_listed_verified_and_exported(tmp_path: Path, capsys):
    """A signature finds an end that was cut off; a printed head also finds one since then."""
    repo = tmp_path / "repo"
    repository.init(repo)
    for name in ("one", "two"):
        repository.enroll(repo, name, labels={}, broker_url=None, out_dir=tmp_path / name)
    opened = repository.opened(repo)
    opened.write_document(opened.document(), layout.utc_now())
    repository.opened(repo).audit.append("later", "x", {}, now=NOW)
    assert [it["act"] for it in typed(capsys, "list", "--repo", str(repo), "--last", "2")[1]["entries"]] == [
        "enroll",
        "later",
    ]
    code, found = typed(capsys, "verify", "--repo", str(repo))
    assert (code, found["entries"], found["anchored"]) == (0, 4, 3)
    copy = tmp_path / "copy.jsonl"
    assert typed(capsys, "export", "--repo", str(repo), "-o", str(copy))[1]["head"] == found["head"]
    path = repo / "audit.jsonl"
    assert copy.read_bytes() == path.read_bytes()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert typed(capsys, "verify", "--repo", str(repo))[0] == 0
    code, refused = typed(capsys, "verify", "--repo", str(repo), "--head", found["head"])
    assert (code, refused["error"]["code"]) == (4, "audit-broken")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    code, refused = typed(capsys, "verify", "--repo", str(repo))
    assert (code, refused["error"]["code"]) == (4, "audit-broken")
    assert "its end is missing" in refused["error"]["message"]


@pytest.mark.parametrize("part_bytes", [1, 100, 100_000])
def test_newest_entries_are_those_of_the_end(log: AuditLog, monkeypatch: pytest.MonkeyPatch, part_bytes: int):
    """Or those before any number, also with a torn line behind them."""
    monkeypatch.setattr(audit, "_PART_BYTES", part_bytes)
    for _ in range(40):
        log.append("relabel", "x" * 500, {}, now=NOW)
        log.append("relabel", "y", {}, now=NOW)
    with (path := log._path).open("ab") as file:
        file.write(b'{"torn')
    every = log.entries()[::-1]
    assert log.newest(1000) == every
    for before in (*range(1, len(every) + 3), 10**9):
        for last in (1, 3):
            assert log.newest(last, before) == [it for it in every if it.number < before][:last]
    path.unlink()
    assert log.newest(5) == log.newest(5, 3) == []


def test_a_look_verifies_what_was_added(log: AuditLog, monkeypatch: pytest.MonkeyPatch):
    """The first one verifies the whole log; later ones read no older line than the verified head's."""
    signed = [log.head()]
    added = AddedEntries(log, lambda: signed[0])
    assert added.check().whole == added.check().head == log.head()
    log.append("deploy", "m-6", {}, now=NOW)
    signed[0] = log.head()
    log.append("deploy", "m-7", {}, now=NOW)
    read, lines_of = [], AuditLog.lines
    monkeypatch.setattr(AuditLog, "lines", lambda *given: (read.append(it) or it for it in lines_of(*given)))
    checked = added.check()
    assert (len(read), checked.head, checked.whole.number) == (2, log.head(), 5)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda lines: lines[:-1], "its end is missing"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"m-5", b"m-6")], "entry 5"),
        (lambda lines: [lines[0].replace(b"m-1", b"m-2"), *lines[1:-1]], "entry 2"),
        (lambda lines: [], "its end is missing"),
    ],
    ids=["cut", "altered", "both", "empty"],
)
def test_a_log_without_the_verified_head_is_broken(log: AuditLog, alter, reason: str):
    """Also where no signed head shows it; until a new log's head is signed."""
    signed = [Head(3, hashlib.sha256(lines(log)[2]).hexdigest())]
    added = AddedEntries(log, lambda: signed[0])
    added.check()
    path = log._path
    path.write_bytes(b"".join(it + b"\n" for it in alter(lines(log))))
    for _ in range(2):
        with pytest.raises(RejectedError, match=reason):
            added.check()
    path.unlink()
    log.append("deploy", "m-1", {}, now=NOW)
    signed[0] = log.head()
    assert added.check().head == log.head()


def test_another_signed_head_in_the_verified_part_is_found(log: AuditLog):
    """The whole log is verified against it."""
    signed = [Head(2, hashlib.sha256(lines(log)[1]).hexdigest())]
    added = AddedEntries(log, lambda: signed[0])
    added.check()
    signed[0] = Head(3, hashlib.sha256(lines(log)[2]).hexdigest())
    assert added.check().head == log.head()
    signed[0] = Head(3, hashlib.sha256(b"another").hexdigest())
    with pytest.raises(RejectedError, match="entry 3 isn't the one that was signed"):
        added.check()

"""The dashboard and its API: roles, login, CSRF, headers, session fixation, contents; without a network."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import html
import io
import json
import re
import shutil
import socket
import tomllib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from starlette.testclient import TestClient

import edgeml.fleet.web
from edgeml import repository
from edgeml.cli.fleet import fleet as commands
from edgeml.fleet.database.schema import SESSION
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.web import api, server, spreadsheet, view_model
from edgeml.fleet.web import pages as pages_module
from edgeml.fleet.web.accounts import Accounts, Role
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.login_limits import PER_ADDRESS_MAX, WINDOW_S, LoginLimits
from edgeml.fleet.web.operations import API, OPERATIONS, Operation, Query
from edgeml.fleet.web.pages import Pages
from edgeml.fleet.web.server import Dashboard, HttpOptions
from edgeml.fleet.web.sessions import AGE_MAX_S, IDLE_MAX_S, PER_ACCOUNT_MAX, SEEN_EVERY_S, Sessions
from edgeml.fleet.web.threads import THREADS, Threads
from edgeml.fleet.web.view_model import ViewModel
from edgeml.repository import layout
from edgeml.repository.audit import Entry
from edgeml.repository.enrollment_database import Issued
from edgeml_core.errors import OverloadedError, RejectedError, UsageError
from edgeml_core.messages import DeviceState, ModelState, Report
from support import certificates, dashboard_fleet
from support.dashboard_fleet import PASSWORD, USERS
from support.dashboard_site import NO_BROKER, Journal
from support.waiting import TIMEOUT_S

URL = "http://127.0.0.1"
STATIC = Path(edgeml.fleet.web.__file__).parent / "static"
DOCS = Path(__file__).parents[2] / "docs"
#: A path of each operation that has names in it.
NAMES = {
    "device": "d-1",
    "rollout": "sample-2.0",
    "release": "",
    "act": "pause",
    "account": "gone",
    "file": "style.css",
}


class Site:
    """An application with its fleet; `client` is a browser."""

    def __init__(self, repo: Path, registry: Registry, tokens: dict[Role, str], *, is_secure: bool = False) -> None:
        self.repo, self.registry, self.tokens = repo, registry, tokens
        rules = {"is_secure": is_secure, "is_local": not is_secure}
        self.app = server.make(repository.opened(repo), registry, Threads(), NO_BROKER, **rules)
        self.client = self.browser()

    def browser(self, url: str = URL) -> TestClient:
        """A browser without cookies."""
        return TestClient(self.app, base_url=url, follow_redirects=False)

    def get(self, path: str, role: Role = Role.ADMIN, **more):
        """Ask with the token of a role."""
        return self.call("GET", path, role, **more)

    def call(self, method: str, path: str, role: Role, **more):
        """Send a request with the token of a role, from no browser."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}", **more.pop("headers", {})}
        return self.browser().request(method, path, headers=headers, **more)

    def log_in(self, name: str, password: str = PASSWORD, client: TestClient | None = None):
        """Log in as a browser does."""
        client = client or self.client
        form = csrf_of(client.get("/login").text)
        return client.post("/login", data={"name": name, "password": password, "csrf": form})

    @property
    def rollout(self) -> str:
        """The id of the rollout."""
        return self.get("/api/v1/rollouts").json()["rollouts"][0]["deployment"]["id"]


def csrf_of(page: str) -> str:
    """The token in a page's form."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of all tests here."""
    repo = tmp_path_factory.mktemp("dashboard") / "repo"
    dashboard_fleet.make(repo)
    return repo


@pytest.fixture(scope="module")
def shared(made: Path) -> Iterator[Site]:
    """A site that no test changes."""
    with dashboard_fleet.registry_of(made) as registry:
        yield Site(made, registry, dashboard_fleet.add_accounts(made, registry))


@pytest.fixture
def site(made: Path, shared: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of it for one test, with the same accounts."""
    shutil.copytree(made, tmp_path / "repo")
    with dashboard_fleet.registry_of(tmp_path / "repo") as registry:
        yield Site(tmp_path / "repo", registry, shared.tokens)


def filled(operation: Operation, shared: Site) -> str:
    """A path of an operation."""
    return operation.path.format(**{**NAMES, "rollout": "none", "release": "none"})


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: f"{it.method} {it.path}")
def test_an_operation_refuses_accounts_below_its_role(shared: Site, operation: Operation) -> None:
    """Without an account 401, or the login's page; with a lower role 403; public operations answer everybody."""
    path = filled(operation, shared)
    body = {"data": {"csrf": ""}} if operation.is_form else {"json": {}} if operation.takes else {}
    bare = shared.browser().request(operation.method, path, **body)
    if operation.role is None:
        assert bare.status_code in {200, 403}  # a form without its CSRF token
        return
    assert bare.status_code == (303 if operation.is_page else 401)
    for role in Role:
        if not role.permits(operation.role):
            assert shared.call(operation.method, path, role, **body).status_code == 403


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: f"{it.method} {it.path}")
def test_every_answer_has_the_headers(shared: Site, operation: Operation) -> None:
    """No script or style inside a page, no frame, no guessed types, nothing of other sites."""
    answer = shared.browser().request(operation.method, filled(operation, shared))
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "server" not in answer.headers


def test_pages_have_no_script_or_style_inside(shared: Site) -> None:
    """A policy would refuse them; and text of devices is escaped on each page."""
    paths = ("/", "/devices", "/devices/d-1", "/devices/d-2", "/rollouts", f"/rollouts/{shared.rollout}", "/releases")
    for path in (*paths, "/audit", "/accounts", "/accounts/viewer", "/nowhere"):
        text = shared.get(path).text
        assert "alert(1)</script>" not in text
        assert "\u202e" not in text
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in shared.get("/devices/d-2").text


def test_pages_name_files_that_are_there(shared: Site) -> None:
    """With the digest of each, which changes its address."""
    named = set(re.findall(r'"(/static/[^"]+)"', shared.get("/devices/d-1").text))
    assert len(named) > 4
    for path in named:
        answer = shared.browser().get(path)
        assert (answer.status_code, "immutable" in answer.headers["Cache-Control"]) == (200, True)


def test_the_api_shows_the_fleet(shared: Site) -> None:
    """Overview, choice and pages of devices, a device, waves of a rollout, releases."""
    fleet = shared.get("/api/v1/fleet", Role.VIEW).json()
    assert (fleet["status"]["devices"], fleet["status"]["online"]) == (4, 3)
    assert {it["value"]: it["devices"] for it in fleet["labels"]["site"]} == {"a": 2, "b": 2}
    first = shared.get("/api/v1/devices?selector=site%3Da&limit=1").json()
    assert ([it["id"] for it in first["devices"]], first["after"]) == (["d-0"], "d-0")
    last = shared.get("/api/v1/devices?selector=site%3Da&limit=1&after=d-0").json()
    assert ([it["id"] for it in last["devices"]], last["after"]) == (["d-2"], "")
    assert [it["id"] for it in shared.get("/api/v1/devices?state=offline").json()["devices"]] == ["d-3"]
    assert len(shared.get("/api/v1/devices?version=sample:1.0").json()["devices"]) == 4
    assert not shared.get("/api/v1/devices?version=other:1.0").json()["devices"]
    assert len(shared.get("/api/v1/devices?selector=&state=&version=&after=").json()["devices"]) == 4
    device = shared.get("/api/v1/devices/d-1").json()
    assert [it["report"]["state"] for it in device["reports"]] == ["active", "probing", "fetching"]
    waves = shared.get(f"/api/v1/rollouts/{shared.rollout}").json()["waves"]
    assert [(it["percent"], it["state"], it["devices"]) for it in waves] == [(50, "current", 2), (100, "next", 2)]
    [release, _] = shared.get("/api/v1/releases").json()["releases"]
    assert release["manifest"]["version"] == "1.0"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/devices?limit=0", 400, "input-invalid"),
        ("/api/v1/devices?limit=x", 400, "input-invalid"),
        ("/api/v1/devices?color=red", 400, "input-invalid"),
        ("/api/v1/devices?limit=", 400, "input-invalid"),
        ("/api/v1/audit?format=", 400, "input-invalid"),
        ("/api/v1/devices?state=odd", 400, "usage"),
        ("/api/v1/devices?selector=(", 400, "usage"),
        ("/api/v1/devices/nobody", 404, "device-unknown"),
        ("/api/v1/rollouts/none", 404, "rollout-unknown"),
        ("/api/v1/releases/none", 404, "release-unknown"),
        ("/api/v1/none", 404, "route-unknown"),
    ],
)
def test_the_api_refuses_bad_requests(shared: Site, path: str, status: int, code: str) -> None:
    """Each with a status and a stable code."""
    answer = shared.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_wrong_method_names_the_right_ones(shared: Site) -> None:
    """As RFC 9110 has it."""
    answer = shared.call("PUT", "/api/v1/fleet", Role.ADMIN)
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]


def test_exports_are_csv_without_formulas(shared: Site) -> None:
    """A spreadsheet computes no cell of a hostile device."""
    rows = list(csv.DictReader(io.StringIO(shared.get("/api/v1/devices?format=csv").text)))
    assert [it["device"] for it in rows] == ["d-0", "d-1", "d-2", "d-3"]
    entry = Entry(number=1, time="t", actor="=1+1", act="@x", subject="-2", details={}, before="")
    assert spreadsheet.audit([entry], has_head=True).splitlines()[1].startswith("1,t,'=1+1,'@x,'-2,")
    # A semicolon separates cells where a comma is the decimal sign.
    entry = Entry(number=1, time="t", actor="a;=1+1", act='b; ""@x', subject="c;d;-e\n+f", details={}, before="")
    assert '\r\n1,t,a;\'=1+1,"b; """"\'@x","c;d;\'-e\n\'+f",' in spreadsheet.audit([entry], has_head=True)
    assert "roll out" in shared.get("/api/v1/audit?format=csv").text


def test_the_table_of_devices_is_exported_whole(shared: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link of the page has all devices that are chosen, read in parts. It ended at 10,000 devices."""
    monkeypatch.setattr(api, "PAGE_MAX", 2, raising=False)
    [link] = re.findall(r'href="([^"]+)">CSV<', shared.get("/devices?limit=1&after=d-0&version=sample:1.0").text)
    assert "limit" not in link
    rows = list(csv.reader(io.StringIO(shared.get(f"{html.unescape(link)}&limit=1").text)))
    assert [it[0] for it in rows] == ["device", "d-0", "d-1", "d-2", "d-3"]
    assert shared.get("/api/v1/devices?format=csv&selector=(").status_code == 400


def test_the_audit_log_is_exported_whole(shared: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link of the page has all entries, read in parts. It ended at 10,000 entries."""
    monkeypatch.setattr(api, "PAGE_MAX", 3)
    [link] = re.findall(r'href="([^"]+)">CSV<', shared.get("/audit?last=1").text)
    assert "last" not in link
    entries = shared.get("/api/v1/audit").json()["entries"]
    rows = list(csv.DictReader(io.StringIO(shared.get(f"{html.unescape(link)}&last=1").text)))
    assert [int(it["number"]) for it in rows] == [it["number"] for it in entries]


def test_the_audit_page_says_what_it_has_verified(site: Site) -> None:
    """The whole log at first, then what was added. An old entry that is altered then is found by the command."""
    path = site.repo / "audit.jsonl"
    entries = len(path.read_bytes().splitlines())
    assert f"entries 1 to {entries} at" in site.get("/audit").text
    layout.opened(site.repo).audit.append("deploy", "more", {}, now=layout.utc_now())
    altered = path.read_bytes().replace(b'"act":"init"', b'"act":"tini"')
    path.write_bytes(altered)
    page = site.get("/audit").text
    assert f"entries 1 to {entries} at" in page
    assert f"head <code>{entries + 1}:" in page
    with pytest.raises(RejectedError, match="entry 2"):
        repository.opened(site.repo).check_audit()
    path.write_bytes(altered.replace(b'"subject":"more"', b'"subject":"less"'))
    assert "broken" in site.get("/audit").text


def test_a_device_shows_its_certificates(site: Site) -> None:
    """The newest first, each with its end, and whether it is revoked."""
    enrollments = repository.opened(site.repo).enrollments
    for serial, ends_s in ((2**159, 4e9), (15, 5e9)):
        enrollments.add_certificate(Issued(serial=serial, name="d-1", role="device", ends_s=ends_s), 0.0)
    found = site.get("/api/v1/devices/d-1").json()["certificates"]
    assert [(it["serial"][0], it["ends_s"], it["revoked"]) for it in found] == [("f", 5e9, False), ("8", 4e9, False)]
    assert "2128-06-11" in site.get("/devices/d-1").text


def test_metrics_are_prometheus_text(shared: Site) -> None:
    """Each sample has a type before it, and no device's name stands in it."""
    text = shared.get("/metrics").text
    assert "edgeml_fleet_devices 4\n" in text
    assert 'edgeml_fleet_rollouts{phase="running"} 1\n' in text
    assert "d-1" not in text
    assert all(re.fullmatch(r"# (HELP|TYPE) .+|\w+(\{.+\})? [\d.e+-]+", it) for it in text.splitlines())


def test_a_hostile_device_makes_no_series(site: Site) -> None:
    """States and versions that it makes up are no labels: Prometheus would keep each one."""
    deployment = repository.opened(site.repo).document().deployments[0]
    made_up = {"model-of-d-1": ModelState(version="d-1", state="active")}
    state = DeviceState(online=True, session=2, models=made_up)
    about = {"deployment": deployment.id, "name": deployment.name, "version": deployment.version}
    report = Report(**about, state="state of d-1", session=2)
    site.registry.record([DeviceMessage(device="d-1", message=it, seen_s=1.0) for it in (state, report)])
    text = site.get("/metrics").text
    assert "d-1" not in text
    assert 'state="other"} 1\n' in text
    assert 'edgeml_fleet_model_devices{model="sample",version="1.0"} 3\n' in text


def test_a_rare_release_has_its_series(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many other versions, which a device may make up, stand before that of a canary."""
    monkeypatch.setattr(view_model, "GROUPS_MAX", 1)
    state = DeviceState(online=True, session=2, models={"sample": ModelState(version="2.0", state="active")})
    site.registry.record([DeviceMessage(device="d-1", message=state, seen_s=1.0)])
    assert 'edgeml_fleet_model_devices{model="sample",version="2.0"} 1\n' in site.get("/metrics").text


def test_the_dashboard_for_grafana_asks_for_metrics_that_exist(shared: Site) -> None:
    """Each host has the figures of the whole fleet: they are counted once, however many hosts are scraped."""
    named = set(re.findall(r"# TYPE (\w+)", shared.get("/metrics").text))
    queries = re.findall(r'"expr": "(.+)"', (DOCS / "grafana-fleet.json").read_text())
    assert queries
    for query in queries:
        [metric] = re.findall(r"edgeml_\w+", query)
        assert metric in named
        assert metric.startswith("edgeml_fleet_host_") or f"max without (instance) ({metric})" in query


def test_the_document_has_each_operation_of_the_api(shared: Site) -> None:
    """Paths and methods are those of the table, and each reference leads somewhere."""
    document = shared.browser().get("/openapi.json").json()
    written = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert written == {(it.method, it.path) for it in API}
    refs = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert refs <= document["components"]["schemas"].keys()


def test_steering_a_rollout_is_logged_with_its_account(site: Site) -> None:
    """A token that may deploy pauses the rollout; an act that its phase doesn't permit is refused."""
    path = f"/api/v1/rollouts/{site.rollout}"
    assert site.call("POST", f"{path}/pause", Role.DEPLOY).json()["phase"] == "paused"
    assert site.call("POST", f"{path}/rollback", Role.DEPLOY).status_code == 400
    assert site.call("POST", f"{path}/explode", Role.DEPLOY).status_code == 404
    [entry, *_] = site.get("/api/v1/audit?last=1").json()["entries"]
    assert (entry["act"], entry["actor"]) == ("pause", "deploy-token@dashboard")


def test_a_stream_begins_with_what_its_page_has_missed(site: Site) -> None:
    """The rollout may change before the stream is open, and while its connection is broken."""
    repo = repository.opened(site.repo)
    pages = Pages(ViewModel(repo, site.registry), Threads()).endpoints()

    def first(seen: str) -> str:
        async def read() -> str:
            asked = Exchange(params={"rollout": site.rollout}, query=Query(), last_event=seen)
            events = pages["rollout_events"](asked).body_iterator
            found = [await anext(events), await anext(events)]
            await events.aclose()
            return found[1]

        return asyncio.run(read())

    event = first("")
    assert "event: changed" in event
    seen = re.match("id: (.+)", event)[1]
    assert "event" not in first(seen)
    Steering(repo, site.registry).act(site.rollout, "pause", now=layout.utc_now())
    assert "event: changed" in first(seen)


def test_streams_of_one_rollout_look_at_it_together(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred pages cost the host as much as one: it reads the states of all devices each time."""
    monkeypatch.setattr(pages_module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(view_model, "AGE_MAX_S", 1000.0)
    view = ViewModel(repository.opened(site.repo), site.registry)
    asked, pages, looks = Exchange(params={"rollout": site.rollout}, query=Query()), Pages(view, Threads()), []
    rollout = view.rollout
    view.rollout = lambda name: looks.append(name) or rollout(name)

    async def follow() -> None:
        events = pages.endpoints()["rollout_events"](asked).body_iterator
        for _ in range(5):
            await anext(events)
        await events.aclose()

    async def follow_twenty() -> None:
        await asyncio.gather(*(follow() for _ in range(20)))

    asyncio.run(follow_twenty())
    assert len(looks) == 20 + 1  # one for each answer's head


def test_acts_that_wait_for_the_repository_leave_the_pages_alone(site: Site) -> None:
    """A command may hold the lock for as long as it compresses a model, or waits for a passphrase."""
    path = f"/api/v1/rollouts/{site.rollout}/pause"
    with ThreadPoolExecutor() as clients:
        with repository.opened(site.repo).locked():
            acts = [clients.submit(site.call, "POST", path, Role.DEPLOY) for _ in range(THREADS + 1)]
            for _ in range(20):
                assert clients.submit(site.get, "/health").result(timeout=TIMEOUT_S).status_code == 200
        assert {it.result().status_code for it in acts} == {200}


def test_an_administrator_adds_and_removes_tokens(site: Site) -> None:
    """A new token works at once, a removed one never again."""
    added = site.call("POST", "/api/v1/tokens", Role.ADMIN, json={"name": "ci", "role": "view", "days": 1})
    headers = {"Authorization": f"Bearer {added.json()['token']}"}
    assert site.browser().get("/api/v1/fleet", headers=headers).status_code == 200
    again = site.call("POST", "/api/v1/tokens", Role.ADMIN, json={"name": "ci", "role": "view"})
    assert again.status_code == 409
    assert site.call("DELETE", "/api/v1/accounts/ci", Role.ADMIN).status_code == 200
    assert site.browser().get("/api/v1/fleet", headers=headers).status_code == 401
    assert site.call("DELETE", "/api/v1/accounts/ci", Role.ADMIN).status_code == 404
    acts = [it["act"] for it in site.get("/api/v1/audit").json()["entries"]]
    assert acts[:2] == ["account remove", "token add"]


def send(client: TestClient, path: str, **fields: object):
    """Send a form of a page of accounts, with its token."""
    return client.post(path, data={**fields, "csrf": csrf_of(client.get("/accounts").text)})


def test_an_administrator_manages_accounts_by_pages(site: Site) -> None:
    """Each act is in the audit log; a reset ends sessions, and another role holds from the next request on."""
    site.log_in("adminer")
    robot = send(site.client, "/accounts", kind="token", name="robot", role="view", days="1").text
    first = re.search(r"<code>(edgeml_[^<]+)", robot)[1]
    anna = {"kind": "user", "name": "anna", "role": "view", "password": "long enough"}
    assert send(site.client, "/accounts", **anna).headers["Location"] == "/accounts"
    assert send(site.client, "/accounts", **anna).status_code == 409
    assert send(site.client, "/accounts", **{**anna, "name": "bert", "password": "short"}).status_code == 400
    assert first not in site.client.get("/accounts").text
    annas = site.browser()
    assert site.log_in("anna", "long enough", annas).status_code == 303
    assert annas.get("/accounts").status_code == 403
    assert 'href="/accounts"' not in annas.get("/").text
    assert send(site.client, "/accounts/anna", act="role", role="admin").status_code == 303
    assert annas.get("/accounts/anna").status_code == 200
    assert send(site.client, "/accounts/anna", act="password", password="another one").status_code == 303
    assert annas.get("/accounts").status_code == 303
    assert site.log_in("anna", "long enough", site.browser()).status_code == 401
    assert site.log_in("anna", "another one", annas).status_code == 303
    second = re.search(r"<code>(edgeml_[^<]+)", send(site.client, "/accounts/robot", act="token").text)[1]
    accounts = Accounts(site.registry.database)
    assert (accounts.by_token(first), accounts.by_token(second).name) == (None, "robot")
    assert send(site.client, "/accounts/robot", act="remove").status_code == 303
    assert accounts.by_token(second) is None
    entries = site.get("/api/v1/audit?last=6").json()["entries"]
    assert {it["actor"] for it in entries} == {"adminer@dashboard"}
    assert [(it["act"], it["subject"]) for it in reversed(entries)] == [
        ("token add", "robot"),
        ("user add", "anna"),
        ("role change", "anna"),
        ("password reset", "anna"),
        ("token reset", "robot"),
        ("account remove", "robot"),
    ]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/accounts", {"kind": "user", "name": "../x", "role": "view", "password": "long enough"}, 400),
        ("/accounts", {"kind": "robot"}, 400),
        ("/accounts/viewer", {"act": "role", "role": "root"}, 400),
        ("/accounts/viewer", {"act": "token"}, 400),
        ("/accounts/view-token", {"act": "password", "password": "long enough"}, 400),
        ("/accounts/viewer", {"act": "other"}, 400),
        ("/accounts/nobody", {"act": "remove"}, 404),
    ],
    ids=str,
)
def test_bad_forms_of_accounts_change_nothing(site: Site, path: str, fields: dict[str, str], status: int) -> None:
    """And are explained by a page; without the token they are refused before that."""
    site.log_in("adminer")
    before, accounts = site.get("/api/v1/audit?last=1").json(), Accounts(site.registry.database).all()
    assert send(site.client, path, **fields).status_code == status
    assert site.client.post(path, data={**fields, "csrf": "x"}).status_code == 403
    assert site.get("/api/v1/audit?last=1").json() == before
    assert Accounts(site.registry.database).all() == accounts


def test_a_user_changes_the_own_password(site: Site) -> None:
    """With the present one alone; all sessions end, and the audit log has it."""
    site.log_in("viewer")
    other = site.browser()
    site.log_in("viewer", client=other)

    def change(present: str, password: str):
        csrf = csrf_of(site.client.get("/account").text)
        return site.client.post("/account", data={"present": present, "password": password, "csrf": csrf})

    wrong = change("another one", "quite another")
    assert (wrong.status_code, "the present password is wrong" in wrong.text) == (401, True)
    assert change(PASSWORD, "short").status_code == 400
    assert other.get("/account").status_code == 200
    assert change(PASSWORD, "quite another").headers["Location"] == "/login"
    assert other.get("/account").status_code == 303
    assert site.log_in("viewer").status_code == 401
    assert site.log_in("viewer", "quite another").status_code == 303
    entry = site.get("/api/v1/audit?last=1").json()["entries"][0]
    assert (entry["act"], entry["subject"], entry["actor"]) == ("password reset", "viewer", "viewer@dashboard")


def test_a_stolen_session_guesses_no_password(site: Site) -> None:
    """A wrong present password counts as a failed login of the account and the address."""
    site.log_in("viewer")
    csrf = csrf_of(site.client.get("/account").text)
    guess = {"present": "another one", "password": "quite another", "csrf": csrf}
    answers = [site.client.post("/account", data=guess).status_code for _ in range(PER_ADDRESS_MAX + 1)]
    assert answers == [401] * PER_ADDRESS_MAX + [429]
    assert Accounts(site.registry.database).by_password("viewer", PASSWORD) is not None


def test_a_token_changes_no_password(site: Site) -> None:
    """Its page has no form for it, and the form is refused."""
    assert 'type="password"' not in site.get("/account", Role.VIEW).text
    fields = {"present": PASSWORD, "password": "quite another"}
    assert site.call("POST", "/account", Role.VIEW, data=fields).status_code == 401


def test_the_last_administrator_stays(site: Site) -> None:
    """By pages and the API; the commands may remove all. An expired token is none."""
    site.log_in("adminer")
    accounts = Accounts(site.registry.database)
    accounts.remove("admin-token")
    accounts.add_token("expired", Role.ADMIN, lifetime_s=-1.0)
    token = accounts.add_token("deploying", Role.DEPLOY)
    for fields in ({"act": "remove"}, {"act": "role", "role": "deploy"}):
        answer = send(site.client, "/accounts/adminer", **fields)
        assert (answer.status_code, "is the last administrator" in answer.text) == (400, True)
    csrf = {"X-CSRF-Token": csrf_of(site.client.get("/accounts").text)}
    assert site.client.delete("/api/v1/accounts/adminer", headers=csrf).status_code == 400
    assert send(site.client, "/accounts/deploying", act="role", role="admin").status_code == 303
    assert accounts.by_token(token).role is Role.ADMIN
    assert send(site.client, "/accounts/adminer", act="remove").status_code == 303
    assert site.client.get("/").status_code == 303
    assert CliRunner().invoke(commands, ["user", "remove", "deploying", "--repo", str(site.repo)]).exit_code == 0


def test_another_token_lives_as_long_as_the_one_before(site: Site) -> None:
    """From its reset on, also behind the end of the first one; one for ever stays that."""
    now_s = [1000.0]
    accounts = Accounts(site.registry.database, lambda: now_s[0])
    accounts.add_token("brief", Role.VIEW, lifetime_s=10)
    accounts.add_token("lasting", Role.VIEW)
    now_s[0] = 2000.0
    text = accounts.renew_token(accounts.known("brief"))
    accounts.renew_token(accounts.known("lasting"))
    assert (accounts.by_token(text).made_s, accounts.known("brief").expires_s) == (2000.0, 2010.0)
    assert accounts.known("lasting").expires_s == 0.0


def test_a_login_makes_a_new_session(site: Site) -> None:
    """The cookie that the browser had before is worth nothing, and no script can read the new one."""
    site.client.cookies.set("edgeml-session", "chosen-by-an-attacker")
    answer = site.log_in("viewer")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    [cookie] = [it for it in answer.headers.get_list("set-cookie") if it.startswith("edgeml-session=")]
    assert "chosen-by-an-attacker" not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert site.client.get("/").status_code == 200
    stolen = site.browser()
    stolen.cookies.set("edgeml-session", "chosen-by-an-attacker")
    assert stolen.get("/").status_code == 303


def test_the_password_of_a_proxy_is_no_token(site: Site) -> None:
    """A browser that gave it one sends it with each request, beside its cookie."""
    site.client.headers["Authorization"] = "Basic YW5uYTpzZWNyZXQ="
    assert site.client.get("/api/v1/fleet").status_code == 401
    assert site.log_in("viewer").status_code == 303
    assert site.client.get("/").status_code == 200
    assert site.client.post("/logout", data={"csrf": "x"}).status_code == 403
    site.client.headers["Authorization"] = "Bearer wrong"
    assert site.client.get("/api/v1/fleet").status_code == 401


def test_a_second_login_ends_the_first_session(site: Site) -> None:
    """The old cookie isn't valid beside the new one."""
    site.log_in("viewer")
    old = site.client.cookies["edgeml-session"]
    site.client.post("/logout", data={"csrf": csrf_of(site.client.get("/").text)})
    assert site.client.get("/").status_code == 303
    site.log_in("deployer")
    stolen = site.browser()
    stolen.cookies.set("edgeml-session", old)
    assert stolen.get("/").status_code == 303


def test_over_tls_cookies_are_secure(site: Site) -> None:
    """And are bound to the host."""
    secure = Site(site.repo, site.registry, site.tokens, is_secure=True)
    answer = secure.log_in("viewer", client=secure.browser("https://fleet.example"))
    [cookie] = [it for it in answer.headers.get_list("set-cookie") if it.startswith("__Host-edgeml-session=")]
    assert "Secure" in cookie.split("; ")


def test_a_token_logs_in_without_a_name(site: Site) -> None:
    """With the role of the token."""
    assert site.log_in("", site.tokens[Role.DEPLOY]).status_code == 303
    assert "deploy-token" in site.client.get("/").text


@pytest.mark.parametrize(("name", "password"), [("viewer", "wrong"), ("nobody", PASSWORD), ("", "wrong"), ("\0", "x")])
def test_a_wrong_login_is_refused(site: Site, name: str, password: str) -> None:
    """By one message, which doesn't name the part that is wrong."""
    answer = site.log_in(name, password)
    assert answer.status_code == 401
    assert "The name and password, or the token, are wrong." in answer.text


def test_forms_need_their_csrf_token(site: Site) -> None:
    """A login without the form's cookie, and an act without the session's token, are refused."""
    form = {"name": "deployer", "password": PASSWORD}
    assert site.client.post("/login", data=form).status_code == 403
    assert site.client.post("/login", data={**form, "csrf": "x"}).status_code == 403
    site.log_in("deployer")
    path = f"/rollouts/{site.rollout}"
    assert site.client.post(f"{path}/pause", data={"csrf": "x"}).status_code == 403
    assert site.client.post(f"/api/v1{path}/pause").status_code == 403
    page = site.client.get(path).text
    assert site.client.post(f"{path}/pause", data={"csrf": csrf_of(page)}).status_code == 303
    header = {"X-CSRF-Token": csrf_of(page)}
    assert site.client.post(f"/api/v1{path}/resume", headers=header).status_code == 200


def test_other_sites_and_other_names_are_refused(shared: Site) -> None:
    """A page of another site can't send a form, and a name that leads to this machine isn't taken (DNS rebinding)."""
    assert shared.browser().post("/login", data={}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert shared.browser("http://evil.example").get("/health").status_code == 403


def test_no_answer_goes_past_the_gateway(shared: Site) -> None:
    """A slash too many is no page, and leads to no host that the request names."""
    answer = shared.browser("http://evil.example").get("/devices/")
    assert answer.status_code == 404
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_bodies_are_bounded_and_of_the_right_type(shared: Site) -> None:
    """Anything else is refused before it is read whole."""
    long = {"name": "a" * 20_000, "role": "view"}
    assert shared.call("POST", "/api/v1/tokens", Role.ADMIN, json=long).status_code == 413
    assert shared.call("POST", "/api/v1/tokens", Role.ADMIN, content="x").status_code == 415
    assert shared.call("POST", "/api/v1/tokens", Role.ADMIN, json={"name": "x"}).status_code == 400


def test_logins_are_limited_by_address_and_account() -> None:
    """Until the window is over; successful ones don't count."""
    now_s = [0.0]
    limits = LoginLimits(lambda: now_s[0])
    for _ in range(3 * PER_ADDRESS_MAX):
        limits.begin("1.2.3.4", "anna")
        limits.succeed("1.2.3.4", "anna")
    for at in range(PER_ADDRESS_MAX):
        limits.begin("1.2.3.4", f"user-{at}")
    with pytest.raises(OverloadedError) as refused:
        limits.begin("1.2.3.4", "anna")
    assert 0 < refused.value.retry_after_s <= WINDOW_S + 1
    limits.begin("5.6.7.8", "anna")
    now_s[0] += WINDOW_S
    limits.begin("1.2.3.4", "anna")


def test_logins_of_an_ipv6_network_count_together() -> None:
    """A client has 2**64 addresses there."""
    limits = LoginLimits(lambda: 0.0)
    for at in range(PER_ADDRESS_MAX):
        limits.begin(f"2001:db8::{at}", f"user-{at}")
    with pytest.raises(OverloadedError):
        limits.begin("2001:db8::ffff", "anna")
    limits.begin("2001:db8:0:1::1", "anna")


def test_long_names_of_failed_logins_take_no_memory() -> None:
    """A form has room for 16 KiB, and the limits remember 10,000 names."""
    limits = LoginLimits(lambda: 0.0)
    tracemalloc.start()
    for at in range(100):
        limits.begin(f"1.2.3.{at}", f"user-{at}" + "x" * 15_000)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 100_000


def test_sessions_end_by_age_and_by_number(site: Site) -> None:
    """An idle one, an old one, and the oldest of too many."""
    now_s = [1000.0]
    sessions = Sessions(site.registry.database, lambda: now_s[0])
    cookies = []
    for _ in range(PER_ACCOUNT_MAX + 1):
        now_s[0] += 1
        cookies.append(sessions.begin("viewer"))
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None
    now_s[0] += IDLE_MAX_S + 1
    assert sessions.find(cookies[-1]) is None
    kept = sessions.begin("viewer")
    began_s = now_s[0]
    while now_s[0] < began_s + AGE_MAX_S - IDLE_MAX_S / 2:
        now_s[0] += IDLE_MAX_S / 2
        assert sessions.find(kept) is not None
    now_s[0] += IDLE_MAX_S
    assert sessions.find(kept) is None


def test_what_pages_ask_by_themselves_is_no_use(site: Site) -> None:
    """A page that stays open follows the fleet, and its session ends as if it were closed."""
    rollout = f"/rollouts/{site.rollout}"

    def after(seconds: float, path: str, **headers: str) -> Any:
        with site.registry.database.writing() as connection:
            connection.execute(sa.update(SESSION).values(seen_s=SESSION.c.seen_s - seconds))
        return site.client.get(path, headers={"HX-Request": "true", **headers})

    site.log_in("viewer")
    [live] = {re.search(r"hx-headers='(.+?)'", site.client.get(path).text)[1] for path in ("/", rollout)}
    assert after(IDLE_MAX_S - 600, "/devices").status_code == 200  # a filter asks for a part, too
    assert after(IDLE_MAX_S - 600, "/", **json.loads(live)).status_code == 200
    assert after(0, rollout, **json.loads(live)).status_code == 200
    assert after(0, "/rollouts/none/events").status_code == 404
    assert after(600, "/", **json.loads(live)).headers["HX-Redirect"] == "/login"


def test_a_session_is_found_in_a_database_that_cannot_be_written(site: Site) -> None:
    """Its time waits until the disk has room again."""
    now_s = [1000.0]
    sessions = Sessions(site.registry.database, lambda: now_s[0])
    cookie = sessions.begin("viewer")
    now_s[0] += SEEN_EVERY_S + 1
    full = "CREATE TRIGGER f BEFORE UPDATE ON session BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    with site.registry.database.writing() as connection:
        connection.exec_driver_sql(full)
    assert sessions.find(cookie).account == "viewer"


def test_secrets_are_stored_hashed_and_tokens_expire(site: Site) -> None:
    """The database has neither a password nor a token nor a cookie."""
    now_s = [0.0]
    accounts = Accounts(site.registry.database, lambda: now_s[0])
    token = accounts.add_token("brief", Role.VIEW, lifetime_s=10)
    assert accounts.by_token(token).name == "brief"
    now_s[0] = 11
    assert accounts.by_token(token) is None
    cookie = Sessions(site.registry.database).begin("viewer")
    site.registry.close()
    stored = b"".join(it.read_bytes() for it in site.repo.glob("fleet.db*"))
    assert b"$argon2id$" in stored
    assert not [it for it in (token, cookie, PASSWORD, *site.tokens.values()) if it.encode() in stored]


def test_a_removed_account_ends_its_sessions(site: Site) -> None:
    """At the next request."""
    site.log_in("viewer")
    assert site.call("DELETE", "/api/v1/accounts/viewer", Role.ADMIN).status_code == 200
    assert site.client.get("/").status_code == 303


def test_a_login_in_the_instant_of_the_removal_begins_no_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be one of the next account of that name."""
    by_password = Accounts.by_password

    def check_slowly(self: Accounts, name: str, password: str) -> Any:
        found = by_password(self, name, password)
        self.remove(name)
        return found

    monkeypatch.setattr(Accounts, "by_password", check_slowly)
    assert site.log_in("viewer").status_code == 401
    Accounts(site.registry.database).add_user("viewer", Role.ADMIN, "a hash")
    assert site.client.get("/").status_code == 303


@asynccontextmanager
async def serving(site: Site, **options: Any) -> AsyncIterator[int]:
    """Serve a site's dashboard on a port of its own."""
    dashboard = Dashboard(HttpOptions(address="127.0.0.1:0", **options))
    running = asyncio.create_task(dashboard.run(repository.opened(site.repo), site.registry, Journal(), NO_BROKER))
    yield int(dashboard.url.rpartition(":")[2])
    running.cancel()
    await asyncio.wait({running})


def test_a_connection_without_a_whole_request_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first head, and between two requests; a client that drips bytes holds no place."""
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.1)

    async def drip() -> None:
        async with serving(site) as port:
            for whole in (b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(whole + b"GET / HT")
                answered = await reader.read()
                assert answered.startswith(b"HTTP/1.1 200") == bool(whole)
                writer.close()

    asyncio.run(drip())


def test_silent_connections_leave_files_to_the_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit a connection is closed at once, and a place that gets free is taken again."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)

    async def connect() -> None:
        async with serving(site) as port:
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            for reader, _ in opened[3:]:
                assert await asyncio.wait_for(_rest(reader), TIMEOUT_S) == b""
            opened[0][1].close()
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if answered := await asyncio.wait_for(_rest(reader), TIMEOUT_S):
                    break
            assert answered.startswith(b"HTTP/1.1 200")
            for _, one in (*opened, (reader, writer)):
                one.close()

    asyncio.run(connect())


def test_a_client_that_takes_no_answer_holds_no_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again and again, and reads nothing."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.2)
    file = b"GET /static/htmx.min.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def ask() -> None:
        async with serving(site) as port:
            with socket.create_connection(("127.0.0.1", port)) as greedy:
                greedy.sendall(file * 400)
                async with asyncio.timeout(TIMEOUT_S):
                    answered = b""
                    while not answered:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.write(health)
                        answered = await _rest(reader)
                        writer.close()
                assert answered.startswith(b"HTTP/1.1 200")

    asyncio.run(ask())


def test_a_proxy_may_run_on_the_same_machine(site: Site) -> None:
    """It passes the name on that the browser asked for over TLS, and no cookie goes without."""

    async def log_in() -> str:
        async with serving(site, insecure=True) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /login HTTP/1.1\r\nHost: fleet.example\r\nConnection: close\r\n\r\n")
            answered = await reader.read()
            writer.close()
            return answered.decode()

    answered = asyncio.run(log_in())
    assert answered.startswith("HTTP/1.1 200")
    assert re.search(r"set-cookie: __Host-edgeml-login=.*; Secure", answered)


async def _failed_login(port: int, *forwarded: str, source: str = "127.0.0.1") -> int:
    """Fail to log in from an address of this machine, with the header of a proxy; return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    header = "".join(f"X-Forwarded-For: {it}\r\n" for it in forwarded)
    head = f"Host: 127.0.0.1\r\nCookie: edgeml-login=n\r\nConnection: close\r\n{header}"
    form = "name=&password=x&csrf=n"
    kind = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}"
    writer.write(f"POST /login HTTP/1.1\r\n{head}{kind}\r\n\r\n{form}".encode())
    answered = await reader.read()
    writer.close()
    return int(answered.split()[1])


def test_a_trusted_proxy_names_the_clients_that_login_limits_count(site: Site) -> None:
    """One client behind it locks nobody else out, and can't say that it is another one."""

    async def log_in() -> None:
        async with serving(site, proxies=("127.0.0.1", "127.1.0.0/16")) as port:
            for at in range(PER_ADDRESS_MAX):
                assert await _failed_login(port, f"198.51.100.{at}, 192.0.2.1") == 401
            assert await _failed_login(port, "198.51.100.99", "192.0.2.1, 127.1.2.3") == 429
            assert await _failed_login(port, "192.0.2.2") == 401

    asyncio.run(log_in())


@pytest.mark.parametrize("proxies", [(), ("127.0.0.9",)], ids=["no-proxy", "another-proxy"])
def test_the_header_of_an_untrusted_address_is_ignored(site: Site, proxies: tuple[str, ...]) -> None:
    """A client that writes it itself counts by its own address."""

    async def log_in() -> None:
        async with serving(site, proxies=proxies) as port:
            for at in range(PER_ADDRESS_MAX):
                assert await _failed_login(port, f"192.0.2.{at}", source="127.0.0.2") == 401
            assert await _failed_login(port, "192.0.2.99", source="127.0.0.2") == 429
            assert await _failed_login(port, "127.0.0.2", source="127.0.0.3") == 401

    asyncio.run(log_in())


def test_a_silent_connection_over_tls_is_closed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as any other one: it has no more time for its handshake."""
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.1)
    certificates.certify(tmp_path)

    async def wait() -> None:
        async with serving(site, cert=tmp_path / "broker.crt", key=tmp_path / "broker.key") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(_rest(reader), TIMEOUT_S) == b""
            writer.close()

    asyncio.run(wait())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes the connection, also by a reset."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "options",
    [
        HttpOptions(address="nonsense"),
        HttpOptions(address="0.0.0.0:0"),
        HttpOptions(address="127.0.0.1:0", proxies=("*",)),
        HttpOptions(address="127.0.0.1:0", proxies=("proxy.example",)),
        HttpOptions(address="127.0.0.1:0", cert=Path("cert.pem")),
        HttpOptions(address="127.0.0.1:0", cert=Path("no.pem"), key=Path("no.key")),
    ],
    ids=str,
)
def test_the_server_refuses_unsafe_or_wrong_addresses(options: HttpOptions) -> None:
    """Passwords cross no network without TLS."""
    with pytest.raises(UsageError):
        Dashboard(options)


def test_the_commands_add_list_change_and_remove_accounts(site: Site, tmp_path: Path) -> None:
    """A user by a password file, a token that is printed once."""
    (tmp_path / "password").write_text("long enough\n")

    def run(*arguments: str) -> str:
        given = ["user", *arguments, "--repo", str(site.repo)]
        return CliRunner().invoke(commands, given, catch_exceptions=False).output

    run("add", "anna", "--role", "admin", "--password-file", str(tmp_path / "password"))
    token = run("add", "robot", "--role", "view", "--token", "--expires", "1d").strip()
    assert Accounts(site.registry.database).by_password("anna", "long enough").role is Role.ADMIN
    assert Accounts(site.registry.database).by_token(token).role is Role.VIEW
    assert "robot" in run("list")
    (tmp_path / "password").write_text("another one\n")
    run("reset", "anna", "--password-file", str(tmp_path / "password"))
    assert Accounts(site.registry.database).by_password("anna", "another one").role is Role.ADMIN
    run("change", "robot", "--role", "deploy")
    second = run("reset", "robot").strip()
    accounts = Accounts(site.registry.database)
    assert (accounts.by_token(token), accounts.by_token(second).role) == (None, Role.DEPLOY)
    with pytest.raises(UsageError, match="robot is a token"):
        run("reset", "robot", "--password-file", str(tmp_path / "password"))
    run("remove", "robot")
    assert "robot" not in run("list")
    with pytest.raises(UsageError, match="there is an account"):
        run("add", "anna", "--role", "view", "--password-file", str(tmp_path / "password"))


def test_vendored_files_are_those_that_were_named() -> None:
    """Each has its digest and its licence in the list, and nothing else lies there."""
    folder = STATIC / "vendored"
    listed = tomllib.loads((folder / "files.toml").read_text())["file"]
    for it in listed:
        assert hashlib.sha256((folder / it["name"]).read_bytes()).hexdigest() == it["sha256"]
        assert (folder / it["license_file"]).is_file()
    named = {"files.toml", *(it["name"] for it in listed), *(it["license_file"] for it in listed)}
    assert {it.name for it in folder.iterdir()} == named


def test_every_user_has_a_role() -> None:
    """The tests cover each role."""
    assert set(USERS) == set(Role)

"""Pages, API and metrics: roles, headers, contents, exports and streams; without a network."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import html
import io
import json
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edgeml.fleet.web
from edgeml import repository
from edgeml.fleet.registry import DeviceMessage
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.web import api, spreadsheet, view_model
from edgeml.fleet.web import pages as pages_module
from edgeml.fleet.web.accounts import Role
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.operations import API, OPERATIONS, Operation, Query
from edgeml.fleet.web.pages import Pages
from edgeml.fleet.web.threads import THREADS, Threads
from edgeml.fleet.web.view_model import ViewModel
from edgeml.repository import layout
from edgeml.repository.audit import Entry
from edgeml.repository.enrollment_database import Issued
from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, ModelState, Report
from support.dashboard_app import Site, csrf_of
from support.waiting import TIMEOUT_S

STATIC = Path(edgeml.fleet.web.__file__).parent / "static"
DOCS = Path(__file__).parents[3] / "docs"
#: A path of each operation that has names in it.
NAMES = {
    "device": "d-1",
    "rollout": "sample-2.0",
    "release": "",
    "act": "pause",
    "account": "gone",
    "file": "style.css",
}


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


def test_an_act_that_begins_waves_is_for_the_wave_that_its_page_shows(site: Site) -> None:
    """The rollout may have gone on since: by another operator's act, too."""
    path = f"/rollouts/{site.rollout}"
    assert site.call("POST", f"/api/v1{path}/pause", Role.DEPLOY).status_code == 200
    site.log_in("deployer")
    page = site.client.get(path).text
    assert f'formaction="{path}/resume?wave=2"' in page
    form = {"csrf": csrf_of(page)}
    assert site.client.post(f"{path}/resume?wave=1", data=form).status_code == 400
    refused = site.call("POST", f"/api/v1{path}/resume?wave=3", Role.DEPLOY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "usage")
    assert site.client.post(f"{path}/resume?wave=2", data=form).status_code == 303


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


def test_vendored_files_are_those_that_were_named() -> None:
    """Each has its digest and its licence in the list, and nothing else lies there."""
    folder = STATIC / "vendored"
    listed = tomllib.loads((folder / "files.toml").read_text())["file"]
    for it in listed:
        assert hashlib.sha256((folder / it["name"]).read_bytes()).hexdigest() == it["sha256"]
        assert (folder / it["license_file"]).is_file()
    named = {"files.toml", *(it["name"] for it in listed), *(it["license_file"] for it in listed)}
    assert {it.name for it in folder.iterdir()} == named

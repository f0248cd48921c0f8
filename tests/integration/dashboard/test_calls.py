"""Calls of the dashboard's accounts over a real Mosquitto, to devices that reply, refuse, are away or stay silent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from edgeml import repository
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml.fleet.web import calls as web_calls
from edgeml.fleet.web.accounts import Accounts, Role
from edgeml.fleet.web.administration import Administration
from edgeml.fleet.web.calls import ACCOUNT_CALLS_MAX, CALLS_MAX
from edgeml.fleet.web.server import HttpOptions
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import broker as broker_urls
from edgeml_core import messages
from edgeml_core.calls import Check, Refused, Reply
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState
from support import brokers, dashboard_site
from support.called_devices import OFFLINE, REPLIES, SILENT, TOPICS, Devices
from support.dashboard_fleet import HOSTILE, PASSWORD, USERS
from support.dashboard_site import DashboardSite
from support.own_site import CertifiedClient, own_site
from support.waiting import TIMEOUT_S, until

#: Seconds for a call that nobody answers, where a test waits for their end.
WAIT_S = 3.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Mosquitto]:
    """One for all tests here."""
    with brokers.mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: brokers.Mosquitto) -> Iterator[DashboardSite]:
    """A dashboard that calls devices there."""
    where = Broker(url=broker_urls.parse(broker.url))
    with dashboard_site.running(tmp_path_factory.mktemp("dashboard") / "repo", broker=where) as made:
        yield made


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls end soon. All others have the product's time: a busy computer takes seconds for a call, too."""
    monkeypatch.setattr(web_calls, "ANSWER_MAX_S", WAIT_S)


@pytest.fixture
def devices(broker: brokers.Mosquitto) -> Iterator[Devices]:
    """The devices, for one test."""
    made = Devices(broker.port)
    yield made
    made.close()


def call(site: DashboardSite, device: str, kind: str, role: Role = Role.DEPLOY, **more: object) -> httpx.Response:
    """Call a device by the API, with the token of a role."""
    headers = {"Authorization": f"Bearer {site.tokens[role]}"}
    body = {"kind": kind, **more}
    return httpx.post(f"{site.url}/api/v1/devices/{device}/calls", json=body, headers=headers, timeout=TIMEOUT_S)


@contextmanager
def browser(site: DashboardSite, role: Role = Role.DEPLOY) -> Iterator[httpx.Client]:
    """A browser that is logged in."""
    with httpx.Client(base_url=site.url, timeout=TIMEOUT_S) as client:
        form = {"name": USERS[role], "password": PASSWORD, "csrf": csrf_of(client.get("/login").text)}
        assert client.post("/login", data=form).status_code == 303
        yield client


@pytest.fixture(scope="module")
def client(site: DashboardSite) -> Iterator[httpx.Client]:
    """A browser of an account that may call."""
    with browser(site) as made:
        yield made


def submit(client: httpx.Client, device: str, **fields: object) -> httpx.Response:
    """Send a form as a device's page has it."""
    form = {"csrf": csrf_of(client.get("/devices").text), **fields}
    return client.post(f"/devices/{device}", data=form)


def csrf_of(page: str) -> str:
    """The token in a page's form."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return answer.status_code, answer.json()["error"]["code"]


def connections(broker: brokers.Mosquitto) -> int:
    """The connections for calls so far."""
    return len(re.findall("New client connected .* as edgeml-call-", broker.log))


def entries(site: DashboardSite) -> list[tuple[str, str, str]]:
    """The calls in the audit log: actor, device, kind."""
    log = repository.opened(site.repo).audit.entries()
    return [(it.actor, it.subject, it.details["kind"]) for it in log if it.act == "call"]


def test_a_log_is_read_by_api_and_page(site: DashboardSite, client: httpx.Client, devices: Devices) -> None:
    """With the account in the audit log, each line escaped, and the number of lines that was asked for."""
    answer = call(site, REPLIES, "logs", lines=20)
    assert answer.json()["log"] == ["a line", HOSTILE]
    assert [(device, it.kind, it.lines, it.session) for device, it in devices.called] == [(REPLIES, "logs", 20, 7)]
    shown = submit(client, REPLIES, kind="logs", lines=30)
    assert shown.status_code == 200
    assert re.search(r'<pre class="log"[^>]*>\s*a line\n&lt;script&gt;', shown.text)
    assert "<script>alert" not in shown.text
    assert [entry for entry in entries(site) if entry[1] == REPLIES] == [
        ("deploy-token@dashboard", REPLIES, "logs"),
        ("deployer@dashboard", REPLIES, "logs"),
    ]


def test_a_viewer_calls_nothing(site: DashboardSite, client: httpx.Client, devices: Devices) -> None:
    """Neither by the API nor by a form, and the page has none; a form without its CSRF token is refused, too."""
    before = entries(site)
    assert code_of(call(site, REPLIES, "logs", Role.VIEW)) == (403, "forbidden")
    with browser(site, Role.VIEW) as viewer:
        assert 'id="calls"' not in viewer.get(f"/devices/{REPLIES}").text
        assert submit(viewer, REPLIES, kind="restart").status_code == 403
    assert submit(client, REPLIES, kind="restart", csrf="x").status_code == 403
    path, header = f"/api/v1/devices/{REPLIES}/calls", {"X-CSRF-Token": "x"}
    assert client.post(path, json={"kind": "restart"}, headers=header).status_code == 403
    assert (devices.called, entries(site)) == ([], before)


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("device", "body", "error"),
    [
        (OFFLINE, {"kind": "logs"}, (409, "device-offline")),
        ("nobody", {"kind": "doctor"}, (404, "device-unknown")),
        (REPLIES, {"kind": "verify", "model": "other"}, (400, "usage")),
        (REPLIES, {"kind": "logs", "lines": 501}, (400, "input-invalid")),
        (REPLIES, {"kind": "shell"}, (400, "input-invalid")),
        (REPLIES, {"kind": "bench", "seconds": 3600}, (400, "input-invalid")),
    ],
)
def test_an_error_has_a_status_and_a_code(
    site: DashboardSite, client: httpx.Client, device: str, body: dict[str, object], error: tuple[int, str]
) -> None:
    """By API and by form."""
    assert code_of(call(site, device, **body)) == error
    shown = submit(client, device, **body)
    assert shown.status_code == error[0]
    assert f"<code>{error[1]}</code>" in shown.text


@pytest.mark.usefixtures("brief", "devices")
def test_call_to_a_silent_device_ends_within_its_bound(site: DashboardSite, client: httpx.Client) -> None:
    """By API and by form; the device has its call."""
    assert code_of(call(site, SILENT, "doctor")) == (504, "call-timeout")
    shown = submit(client, SILENT, kind="doctor")
    assert (shown.status_code, "<code>call-timeout</code>" in shown.text) == (504, True)


def test_an_error_of_the_device_is_no_error_of_the_request(
    site: DashboardSite, client: httpx.Client, devices: Devices
) -> None:
    """Whatever its code is: a hostile one must not send the operator to the login."""
    refused = Refused.of(DeviceError("unauthorized", HOSTILE, "log in"))
    devices.reply = lambda call: Reply(id=call.id, refused=refused)
    assert code_of(call(site, REPLIES, "restart")) == (502, "unauthorized")
    shown = submit(client, REPLIES, kind="restart")
    assert (shown.status_code, "<script>alert" in shown.text) == (502, False)
    devices.reply = lambda call: {"id": 1}
    assert code_of(call(site, REPLIES, "restart")) == (502, "document-format")


def test_each_kind_shows_its_result(client: httpx.Client, devices: Devices) -> None:
    """Checks with their remedies, and a restart as a sentence."""
    checks = (Check("disk", "failed", "0 bytes free", "delete files"), Check("broker", "ok", "connected"))
    devices.reply = lambda call: Reply(id=call.id, checks=checks if call.kind == "doctor" else ())
    shown = submit(client, REPLIES, kind="doctor").text
    assert "1 of 2 checks are ok." in shown
    assert "delete files" in shown
    assert f"{REPLIES} restarts its agent" in submit(client, REPLIES, kind="restart").text


def test_silent_devices_stop_nobody(site: DashboardSite, devices: Devices, broker: brokers.Mosquitto) -> None:
    """Calls that wait hold no thread, share one connection, and are bounded by account; the others are answered."""
    before = connections(broker)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(call, site, SILENT, "logs", role) for role in (Role.DEPLOY, Role.ADMIN)]
        until(lambda: len(devices.called) == 2, "both calls have come")
        assert call(site, REPLIES, "logs").status_code == 200
        headers = {"Authorization": f"Bearer {site.tokens[Role.VIEW]}"}
        assert httpx.get(f"{site.url}/api/v1/devices", headers=headers, timeout=TIMEOUT_S).status_code == 200
        waiting.append(pool.submit(call, site, SILENT, "logs"))
        until(lambda: len(devices.called) == 4, "the account has as many calls as it may")
        refused = call(site, REPLIES, "logs")
        assert code_of(refused) == (429, "overloaded")
        assert connections(broker) == before + 1
        assert int(refused.headers["Retry-After"]) > 0
        assert not any(it.done() for it in waiting)
        devices.reply_late()
        assert {it.result().status_code for it in waiting} == {200}
    assert len([it for it in entries(site) if it[1] == SILENT]) >= 3
    assert call(site, REPLIES, "logs").status_code == 200
    assert 2 * ACCOUNT_CALLS_MAX <= CALLS_MAX


@pytest.mark.usefixtures("brief")
def test_a_call_waits_for_the_repository_within_its_bound(site: DashboardSite, devices: Devices) -> None:
    """A command holds it for minutes: the call isn't sent."""
    with repository.opened(site.repo).locked():
        assert code_of(call(site, REPLIES, "logs")) == (429, "overloaded")
    assert not devices.called


@pytest.mark.nightly
def test_calls_at_a_time_reach_devices_at_the_fleets_own_broker(tmp_path: Path) -> None:
    """Its clients have one connection a name: the dashboard's calls have one of their own, beside the host's."""
    repo = tmp_path / "repo"
    with own_site(repo, http=HttpOptions(address="127.0.0.1:0")) as running:
        repository.enroll(repo, "d-0", labels={}, broker_url=None, out_dir=tmp_path / "d-0")
        device = CertifiedClient(running, running.certify("d-0", "device", tmp_path / "d-0.pem"))
        try:
            until(lambda: device.is_up, "the device is connected")
            online = messages.encode(DeviceState(online=True, session=7, models={}))
            device.client.subscribe(TOPICS.call("d-0"), qos=1)
            device.client.publish(TOPICS.state("d-0"), online, qos=1, retain=True)
            with closing(Registry(repo / DATABASE_FILE)) as registry:
                token = Administration(running.folder, Accounts(registry.database)).add_token("robot", Role.DEPLOY)
            [url] = [fields["url"] for name, fields in running.events if name == "dashboard"]
            made = DashboardSite(url, repo, registry, {Role.DEPLOY: token})
            with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
                patch.setattr(web_calls, "ANSWER_MAX_S", 10.0)
                asked = [pool.submit(call, made, "d-0", "logs") for _ in range(2)]
                assert [code_of(it.result()) for it in asked] == [(504, "call-timeout")] * 2
            assert device.heard.count(TOPICS.call("d-0")) == 2
            assert running.count("connected") == 1
        finally:
            device.close()


def test_a_broker_that_goes_away_is_named(tmp_path: Path) -> None:
    """In the middle of a call, and before one; at once."""
    with brokers.mosquitto(tmp_path / "broker") as broker, ThreadPoolExecutor(1) as pool:
        silent = Devices(broker.port)
        with dashboard_site.running(tmp_path / "repo", 2, Broker(url=broker_urls.parse(broker.url))) as lone:
            asked = pool.submit(call, lone, SILENT, "logs")
            until(lambda: silent.called, "the call has come")
            broker.kill()
            assert code_of(asked.result()) == (502, "broker-unreachable")
            assert code_of(call(lone, SILENT, "logs")) == (502, "broker-unreachable")
        silent.close()

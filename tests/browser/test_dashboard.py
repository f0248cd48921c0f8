"""The dashboard in a real browser: login, filters, live progress, keyboard, findings of axe; light, dark, a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect
from tests.support import brokers, dashboard_site
from tests.support.called_devices import OFFLINE, REPLIES, Devices
from tests.support.dashboard_fleet import PASSWORD
from tests.support.dashboard_site import DashboardSite

from edgeml import repository
from edgeml.fleet.database.schema import SESSION
from edgeml.fleet.link import Broker
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.web.accounts import Role
from edgeml.repository import layout
from edgeml_core import broker as broker_urls

pytestmark = pytest.mark.nightly
AXE = Path(__file__).parents[1] / "clients" / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
WAIT_MS = 60_000
RELEASE = "/releases/sample-1.0-rpi4-onnx"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardSite]:
    """A running dashboard."""
    folder = tmp_path_factory.mktemp("dashboard")
    with brokers.mosquitto(folder / "broker") as broker:
        devices = Devices(broker.port)
        with dashboard_site.running(folder / "repo", 12, Broker(url=broker_urls.parse(broker.url))) as made:
            yield made
        devices.close()


@pytest.fixture
def pages(chromium: Browser, dashboard: DashboardSite) -> Iterator[object]:
    """Opens browsers; afterwards none of them may have had an error or asked another site."""
    strange: list[str] = []
    contexts = []

    def start(view: str = "light", **options: object) -> Page:
        context = chromium.new_context(**VIEWS[view], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on("console", lambda it: strange.append(it.text) if it.type == "error" and "40" not in it.text else None)
        page.on("request", lambda it: None if it.url.startswith(dashboard.url) else strange.append(it.url))
        return page

    yield start
    for context in contexts:
        context.close()
    assert not strange


def log_in(page: Page, url: str, role: Role = Role.DEPLOY) -> Page:
    """Log in by the form."""
    page.goto(f"{url}/login")
    page.get_by_label("Name").fill(f"{role}er")
    page.get_by_label("Password or token").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/")
    return page


def rollout_of(dashboard: DashboardSite) -> str:
    """The address of the rollout's page."""
    [rollout] = Steering(repository.opened(dashboard.repo), dashboard.registry).rollouts.all()
    return f"/rollouts/{rollout.id}"


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault_and_nothing_is_cut(dashboard: DashboardSite, pages, view: str) -> None:
    """On each page; and no page is wider than the screen."""
    page = pages(view, bypass_csp=True)
    page.goto(f"{dashboard.url}/login")
    found = faults(page)
    log_in(page, dashboard.url, Role.ADMIN)
    paths = (
        "/",
        "/devices",
        "/devices/d-1",
        "/rollouts",
        rollout_of(dashboard),
        "/releases",
        RELEASE,
        "/audit",
        "/accounts",
        "/accounts/viewer",
        "/account",
        "/devices/no",
    )
    for path in paths:
        page.goto(dashboard.url + path)
        found += faults(page)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
    assert not found


def faults(page: Page) -> list[str]:
    """The serious and critical findings of axe about a page."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{page.url}: {it['id']}: {it['nodes'][0]['html']}" for it in found if it["impact"] in {"serious", "critical"}
    ]


def test_the_filters_replace_the_table_without_a_new_page(dashboard: DashboardSite, pages) -> None:
    """The address has the choice, and going back restores the table."""
    page = log_in(pages(), dashboard.url)
    page.get_by_role("link", name="Devices", exact=True).click()
    expect(page.locator("#devices tbody tr")).to_have_count(12)
    page.evaluate("window.sameDocument = true")
    page.get_by_label("Labels").fill("site=a")
    page.get_by_label("Labels").press("Enter")
    expect(page.locator("#devices tbody tr")).to_have_count(6)
    page.get_by_label("State").select_option("failed")
    expect(page.locator("#devices tbody tr")).to_have_count(1)
    assert page.evaluate("window.sameDocument")
    assert "state=failed" in page.url


def test_a_wrong_filter_is_explained(dashboard: DashboardSite, pages) -> None:
    """By the page of the error, as without JavaScript."""
    page = log_in(pages(), dashboard.url)
    page.goto(f"{dashboard.url}/devices")
    page.get_by_label("Labels").fill("site=(")
    page.get_by_label("Labels").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("site=(")


def test_the_plot_is_drawn(dashboard: DashboardSite, pages) -> None:
    """By uPlot, within the policy; a table beside it has the same figures."""
    page = log_in(pages(), dashboard.url)
    page.goto(f"{dashboard.url}/devices/d-1")
    expect(page.locator(".plot canvas")).to_be_visible()
    expect(page.locator("table").last).to_contain_text("32.0 MB")


def test_a_rollout_changes_before_the_eyes(dashboard: DashboardSite, pages) -> None:
    """An act elsewhere shows without a reload, and the buttons are those of the new phase."""
    page = log_in(pages(), dashboard.url)
    page.goto(dashboard.url + rollout_of(dashboard))
    page.evaluate("window.sameDocument = true")
    steering = Steering(repository.opened(dashboard.repo), dashboard.registry)
    name = rollout_of(dashboard).rpartition("/")[2]
    steering.act(name, "pause", now=layout.utc_now())
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert page.evaluate("window.sameDocument")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_stream_that_was_refused_is_asked_for_again(dashboard: DashboardSite, pages) -> None:
    """As by a proxy while the host starts: browsers give up such a stream for good."""
    page = log_in(pages(), dashboard.url)
    page.route("**/events", lambda it: it.fulfill(status=404), times=1)
    page.goto(dashboard.url + rollout_of(dashboard))
    steering = Steering(repository.opened(dashboard.repo), dashboard.registry)
    name = rollout_of(dashboard).rpartition("/")[2]
    steering.act(name, "pause", now=layout.utc_now())
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    steering.act(name, "resume", now=layout.utc_now())
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_page_that_follows_a_rollout_leads_to_the_login(dashboard: DashboardSite, pages) -> None:
    """Once its session has ended: what it shows would stay as it was."""
    page = log_in(pages(), dashboard.url)
    page.route("**/events", lambda it: it.fulfill(status=404))
    page.goto(dashboard.url + rollout_of(dashboard))
    with dashboard.registry.database.writing() as connection:
        connection.execute(sa.delete(SESSION))
    page.wait_for_url(f"{dashboard.url}/login")


def test_a_viewer_has_no_buttons_and_javascript_is_optional(dashboard: DashboardSite, pages) -> None:
    """Pages, filters and login are plain links and forms."""
    page = log_in(pages(java_script_enabled=False), dashboard.url, Role.VIEW)
    page.goto(dashboard.url + rollout_of(dashboard))
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.goto(f"{dashboard.url}/devices")
    page.get_by_label("Labels").fill("site=b")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#devices tbody tr")).to_have_count(6)


def test_a_call_shows_its_answer_in_place(dashboard: DashboardSite, pages) -> None:
    """The log, then the error of another device; focus stays, and a screen reader is told, but not each line."""
    page = log_in(pages(), dashboard.url)
    page.goto(f"{dashboard.url}/devices/{REPLIES}")
    page.evaluate("window.sameDocument = true")
    page.get_by_label("Lines").fill("20")
    page.get_by_role("button", name="Read its log").press("Enter")
    expect(page.get_by_role("region", name=f"Log of {REPLIES}")).to_contain_text("a line")
    expect(page.get_by_role("button", name="Read its log")).to_be_focused()
    expect(page.locator("[aria-live=polite] pre[aria-live=off]")).to_have_count(1)
    assert page.evaluate("window.sameDocument")
    page.goto(f"{dashboard.url}/devices/{OFFLINE}")
    page.get_by_role("button", name="Check the device").click()
    expect(page.locator("#answer")).to_contain_text("device-offline")


def test_a_call_needs_no_javascript(dashboard: DashboardSite, pages) -> None:
    """The page of the device comes back, at the answer."""
    page = log_in(pages(java_script_enabled=False), dashboard.url)
    page.goto(f"{dashboard.url}/devices/{REPLIES}")
    page.get_by_role("button", name="Read its log").click()
    expect(page.locator("pre.log")).to_contain_text("a line")
    assert page.url == f"{dashboard.url}/devices/{REPLIES}#answer"
    page.goto(f"{dashboard.url}/devices/{OFFLINE}")
    page.get_by_role("button", name="Check the device").click()
    expect(page.locator("#answer")).to_contain_text("device-offline")
    expect(page.get_by_role("heading", level=1)).to_have_text(OFFLINE)


def test_an_administrator_adds_and_removes_a_person(dashboard: DashboardSite, pages) -> None:
    """Also without JavaScript; a token is shown once."""
    page = log_in(pages(java_script_enabled=False), dashboard.url, Role.ADMIN)
    page.get_by_role("link", name="Accounts").click()
    page.get_by_label("Name", exact=True).fill("anna")
    page.get_by_label("Password").fill("long enough")
    page.get_by_role("button", name="Add the person").click()
    page.get_by_label("Name of the token").fill("robot")
    page.get_by_role("button", name="Add the token").click()
    expect(page.get_by_role("status")).to_contain_text("edgeml_")
    for name in ("anna", "robot"):
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_role("button", name=f"Remove {name}").click()
        expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)


def test_the_keyboard_is_enough(dashboard: DashboardSite, pages) -> None:
    """The first tab skips the head; focus is seen."""
    page = log_in(pages(), dashboard.url)
    page.goto(f"{dashboard.url}/devices")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Labels")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_card_is_the_page_of_inspect(dashboard: DashboardSite, pages) -> None:
    """With its style, which the policy permits by its hash."""
    page = log_in(pages(), dashboard.url)
    page.goto(f"{dashboard.url}{RELEASE}/card")
    assert page.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"


def test_logging_out_ends_the_session(dashboard: DashboardSite, pages) -> None:
    """The next page is the login's."""
    page = log_in(pages(), dashboard.url)
    page.get_by_role("button", name="Log out").click()
    page.goto(f"{dashboard.url}/devices")
    expect(page.get_by_role("heading", name="Log in to the fleet")).to_be_visible()

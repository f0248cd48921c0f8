"""Debian's Chromium, driven by playwright; every page must keep to this machine and stay without errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.browser import served

#: No sandbox: it asks for rights that root in a container doesn't have. The microphone is Chromium's own, which beeps.
ARGUMENTS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--host-resolver-rules=MAP {served.ELSEWHERE} 127.0.0.1",
)
#: Only ends a test that would hang: Chromium's processes share two cores with five other tests.
PATIENCE_MS = 60_000

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser; for no longer than these tests, since playwright keeps an event loop running in this thread."""
    found = shutil.which("chromium")
    assert found, "chromium is missing: run `make test`, which installs it"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Site]:
    """A server with every task, without a token."""
    with served.site(tmp_path_factory.mktemp("site")) as made:
        served.everything(made)
        yield made


@pytest.fixture
def opened(chromium: Browser, site: served.Site) -> Iterator[Open]:
    """Opens the page at a model, in a browser of its own; afterwards nothing strange may have happened in it."""
    strange: list[str] = []
    contexts = []

    def see(model: str = "", *, url: str = site.url, clock: bool = False, **options: Any) -> Page:
        context = chromium.new_context(permissions=["clipboard-read", "clipboard-write", "microphone"], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on("console", lambda said: strange.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith((url, "blob:")) else strange.append(asked.url))
        if clock:
            page.clock.install()
        page.goto(f"{url}/#{model}")
        return page

    yield see
    for context in contexts:
        context.close()
    assert not strange

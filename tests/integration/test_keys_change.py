"""Keys that change while a host and a device run, and what a broker's owner can do about it: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository import NewKeys
from support.delivery_site import DEVICE, Site, site, until


@pytest.fixture
def running(tmp_path: Path):
    """A device that serves version 1.0 from a running host."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        yield made


def test_running_devices_follow_new_keys(running: Site):
    """The host announces the new roots, and what is deployed after them comes to be served."""
    repository.rotate(running.repo, "fleet", NewKeys())
    repository.rotate(running.repo, "release", NewKeys(files=2, threshold=2))
    running.publish("2.0", scale=3.0)
    running.deploy("2.0")
    running.observer.await_report(state="active", version="2.0")
    assert running.answers(31.0)


def test_old_root_put_back_does_not_hide_the_new_one(running: Site):
    """The broker's owner clears the new roots and puts the old timestamp back: the host repairs it."""
    topic = running.observer.topics.trust("fleet", "metadata/timestamp.json")
    old = (running.repo / "fleet" / "metadata" / "timestamp.json").read_bytes()
    repository.rotate(running.repo, "fleet", NewKeys())
    for name in ("fleet", "releases"):
        for file in ("metadata/2.root.json", "metadata/root.json"):
            running.observer.publish(running.observer.topics.trust(name, file), b"", retain=True)
    running.observer.publish(topic, old, retain=True)
    running.publish("2.0", scale=3.0)
    running.deploy("2.0")
    running.observer.await_report(state="active", version="2.0")
    until(lambda: running.observer.states()[-1].code == "", f"{DEVICE} believes what is signed again")

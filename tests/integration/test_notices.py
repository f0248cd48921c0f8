"""Notices of a running host: a deployment that fails on a device reaches a webhook and the fleet's topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeml.fleet.rules import saved
from edgeml.fleet.rules.answers import Action, Event
from edgeml.repository import layout
from edgeml_core.lifecycle import State
from support.delivery_site import DEVICE, FLEET, site, until
from support.programs import host_command
from support.receivers import receiver


@pytest.mark.nightly
def test_failed_deployment_reaches_webhook_and_topic(tmp_path: Path):
    """Once each, with the device and the code; the device's log is collected by a rule."""
    secret = tmp_path / "secret"
    secret.write_text("a secret of some characters")
    with site(tmp_path) as made, receiver(503) as server:
        hook = ("--webhook", f"http://127.0.0.1:{server.server_port}/hook", "--webhook-secret-file", str(secret))
        made.publish("1.0", scale=2.0, seed=1)
        made.publish("2.0", scale=2.0, seed=1, fault="wrong golden")
        made.programs.start(made.folder / "host.log", *host_command(made.repo, made.broker.url), *hook)
        actions = [Action.NOTIFY, Action.COLLECT]
        saved.save(layout.opened(made.repo), Event.FAILED, actions, now=layout.utc_now())
        made.start_agent()
        made.deploy("1.0")
        made.observer.await_report(state="active", version="1.0")
        made.deploy("2.0")
        made.observer.await_report(state=State.ROLLED_BACK, version="2.0", code="golden-mismatch")
        until(lambda: server.received, "the webhook was tried")
        server.status = 204
        topic = f"edgeml/1/{FLEET}/notice"

        def heard() -> list[dict[str, object]]:
            return [json.loads(payload) for at, payload in made.observer.heard if at == topic]

        until(lambda: any(it["event"] == "failed" for it in heard()), "the notice was published")
        until((made.repo / "collected" / f"{DEVICE}.json").exists, "the log was collected")
        until(lambda: len({body for _, _, body in server.received}) == len(heard()), "the webhook has all")
        (failed,) = [it for it in heard() if it["event"] == "failed"]
        assert failed["devices"] == [DEVICE]
        assert "golden-mismatch" in str(failed["text"])

"""Messages that wait at a relay: the newest of each subject, and never more than the bound."""

import pytest

from edgeml_agent.relay import backlog
from edgeml_agent.relay.backlog import Backlog
from edgeml_core.messages import DeviceState, Report
from edgeml_core.relay_batch import RelayedMessage


def report(device, deployment, version="1.0"):
    """A report."""
    outcome = Report(deployment=deployment, name="mood", version=version, state="active", session=1)
    return RelayedMessage(device=device, report=outcome)


def state(device, session=1):
    """A state."""
    return RelayedMessage(device=device, state=DeviceState(online=True, session=session))


def test_newer_message_replaces_the_one_on_its_subject():
    """It takes its room, too; taking all leaves nothing."""
    held = Backlog()
    for message in (report("a", "d"), state("a"), report("a", "d", "2.0"), state("a", session=2), state("b")):
        held.put((message, 10))
    assert held.held_bytes == 30
    assert held.holds(("a", "d"))
    assert not held.holds(("b", "d"))
    assert set(map(str, held.take())) == set(map(str, [report("a", "d", "2.0"), state("a", session=2), state("b")]))
    assert held.held_bytes == 0
    assert held.take() == []


@pytest.mark.parametrize("order", [1, -1])
def test_device_that_floods_displaces_its_own_messages_only(monkeypatch, order):
    """Wherever its flood stands between the others' messages."""
    monkeypatch.setattr(backlog, "BACKLOG_MAX_BYTES", 1000)
    held = Backlog()
    quiet = [state(f"d-{number}") for number in range(10)]
    flood = [report("loud", str(number)) for number in range(500)]
    for message in [quiet, flood][::order]:
        for it in message:
            held.put((it, 50))
            assert held.held_bytes <= 1000
    kept = held.take()
    assert [it for it in kept if it.device != "loud"] == quiet
    assert [it.report.deployment for it in kept if it.device == "loud"] == [str(it) for it in range(490, 500)]

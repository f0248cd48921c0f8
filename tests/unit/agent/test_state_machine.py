"""The state machine of an update, over a real store: which event an occasion is, and what is stored when."""

import asyncio

import pytest

from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.update.state_machine import StateMachine
from edgeml_core.errors import DeviceError, RejectedError, TransportError
from edgeml_core.lifecycle import Event, State

DIGEST = "a" * 64


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    store = Store(tmp_path)
    yield store
    store.close()


def a_machine(store, state, **changes):
    """A machine in `state`, and the list of the states that it reports."""
    store.save(ModelRecord(name="mood", state=state, deployment="d1", version="1.0", wanted=DIGEST))
    if changes.get("active"):
        store.activate(ModelRecord(name="mood", state=state, deployment="d1", version="1.0", wanted=DIGEST), 1.0)
    seen = []
    return StateMachine(store, "mood", lambda record: seen.append(record.state)), seen


@pytest.mark.parametrize("state", [State.IDLE, State.FETCHING, State.WAITING, State.DEFERRED, State.REJECTED])
def test_begin_starts_from_every_state_without_a_running_step(store, state):
    """A new deployment, a retry, a resumption: all begin by resolving, without the old digest."""
    machine, seen = a_machine(store, state)
    asyncio.run(machine.begin("d2", "2.0"))
    assert seen == [State.RESOLVING]
    assert (machine.record.deployment, machine.record.version, machine.record.wanted) == ("d2", "2.0", "")
    assert store.record("mood") == machine.record


def test_refusal_while_a_retry_is_resolved_is_no_refusal_of_the_release(store):
    """The retry keeps the release for its chunks, and has yet to find out whether it is still the one."""
    machine, _ = a_machine(store, State.WAITING)
    asyncio.run(machine.begin("d1", "1.0"))
    assert machine.record.wanted == DIGEST
    asyncio.run(machine.fail(RejectedError("digest-mismatch", "the repositories disagree")))
    assert machine.record.state is State.REJECTED
    assert store.refusal(DIGEST) is None


@pytest.mark.parametrize(
    ("error", "state", "is_refused"),
    [
        (RejectedError("bundle-format", "malformed"), State.REJECTED, True),
        (TransportError("chunk-timeout", "late"), State.WAITING, False),
        (DeviceError("disk-full", "full"), State.ROLLED_BACK, False),
    ],
)
def test_fail_follows_the_error_s_family(store, error, state, is_refused):
    """Only a rejected release is never fetched again."""
    machine, seen = a_machine(store, State.FETCHING)
    asyncio.run(machine.fail(error))
    assert seen == [state]
    assert (machine.record.code, machine.record.message) == (error.code, error.message)
    assert (store.refusal(DIGEST) is not None) is is_refused


def test_activate_makes_the_wanted_release_active(store):
    """State and release change in one transaction; the machine has the stored record."""
    machine, seen = a_machine(store, State.ACTIVATING)
    asyncio.run(machine.activate(5.0))
    assert seen == [State.ACTIVE]
    assert (machine.record.active, machine.record.activated_at) == (DIGEST, 5.0)
    assert store.record("mood") == machine.record


@pytest.mark.parametrize(("active", "state"), [(False, State.IDLE), (True, State.ACTIVE)])
def test_abandon_ends_an_unfinished_update(store, active, state):
    """With an active release the model stays active, without one it is idle."""
    machine, _ = a_machine(store, State.WAITING, active=active)
    asyncio.run(machine.abandon())
    assert (machine.record.state, machine.record.deployment, machine.record.wanted) == (state, "", "")


def test_abandon_and_interrupt_leave_a_settled_update(store):
    """Its deployment stays recorded."""
    machine, seen = a_machine(store, State.REJECTED)
    asyncio.run(machine.abandon())
    asyncio.run(machine.interrupt())
    assert seen == []
    assert machine.record.deployment == "d1"


def test_advance_by_an_impossible_event_changes_nothing(store):
    """It is a defect of the caller."""
    machine, seen = a_machine(store, State.IDLE)
    with pytest.raises(ValueError, match="can't happen while idle"):
        asyncio.run(machine.advance(Event.VERIFIED))
    assert (seen, store.record("mood").state) == ([], State.IDLE)

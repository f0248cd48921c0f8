"""The table of the state machine of an update."""

import pytest

from edgeml_core.lifecycle import TABLE, UNDER_WAY, Event, State, advance, diagram


def test_the_way_of_an_update():
    """Seven events take a deployment to a serving model."""
    state = State.IDLE
    for event in (Event.WANTED, Event.RESOLVED, Event.FETCHED, Event.VERIFIED, Event.PROBED, Event.ACTIVATED):
        state = advance(state, event)
    assert state is State.ACTIVE


def test_every_state_has_moves_and_can_be_reached():
    """No state is dead or forgotten."""
    reached = {after for moves in TABLE.values() for after in moves.values()} | {State.IDLE}
    assert set(TABLE) == set(State) == reached


def test_a_model_becomes_active_only_after_verification_and_probe():
    """There is one way to a new version's `active`, and each of its steps has one way in besides."""
    new = {state: {event: after for event, after in moves.items() if event is not Event.KEPT}
           for state, moves in TABLE.items()}  # fmt: skip
    for state, events in ((State.ACTIVE, {Event.ACTIVATED}), (State.ACTIVATING, {Event.PROBED, Event.AGREED}),
                          (State.SHADOWING, {Event.STAGED}), (State.PROBING, {Event.VERIFIED}),
                          (State.VERIFYING, {Event.FETCHED})):  # fmt: skip
        assert {event_in for moves in new.values() for event_in, after in moves.items() if after is state} == events
    assert {state for state, moves in new.items() if {Event.PROBED, Event.STAGED} & {*moves}} == {State.PROBING}
    assert {state for state, moves in new.items() if Event.AGREED in moves} == {State.SHADOWING}


def test_every_step_under_way_survives_each_kind_of_failure():
    """Whoever is at fault, there is a state to go to."""
    for state in UNDER_WAY:
        assert advance(state, Event.REFUSED) is State.REJECTED
        assert advance(state, Event.TRANSPORT_FAILED) is State.WAITING
        assert advance(state, Event.DEVICE_FAILED) is State.ROLLED_BACK


def test_an_impossible_move_is_a_defect():
    """It names the event and the state."""
    with pytest.raises(ValueError, match="'probed' can't happen while idle"):
        advance(State.IDLE, Event.PROBED)


def test_the_diagram_shows_every_move():
    """The docs' picture has one arrow a move."""
    assert diagram().count("-->") == sum(map(len, TABLE.values())) + 1

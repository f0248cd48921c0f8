"""The update machine of one model on one device: a table. Its diagram (docs/update-machine.md) is drawn from it.

Rule 1: whatever decides which state follows which lives in this table. Rule 2: this file knows nothing of how the
steps are done. States are adjectives or running work, events are past tense.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where the update of one model stands."""

    IDLE = "idle"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    PROBING = "probing"
    SHADOWING = "shadowing"
    DEFERRED = "deferred"
    ACTIVATING = "activating"
    ACTIVE = "active"
    REJECTED = "rejected"
    WAITING = "waiting"
    ROLLED_BACK = "rolled back"


class Event(StrEnum):
    """What happened."""

    WANTED = "wanted"
    RESOLVED = "resolved"
    FETCHED = "fetched"
    VERIFIED = "verified"
    PROBED = "probed"
    STAGED = "staged"
    AGREED = "agreed"
    POSTPONED = "postponed"
    ACTIVATED = "activated"
    REFUSED = "refused"
    TRANSPORT_FAILED = "transport failed"
    DEVICE_FAILED = "device failed"
    RETRIED = "retried"
    INTERRUPTED = "interrupted"
    WITHDRAWN = "withdrawn"
    KEPT = "kept"


#: The deployment is wanted no longer: nothing serves, or what served before is kept.
_LEFT: Final = {Event.WITHDRAWN: State.IDLE, Event.KEPT: State.ACTIVE}
#: Any step can be cut short by these: the sender's fault, the road's, this machine's, a restart, another wish or none.
_CUT_SHORT: Final = {
    Event.REFUSED: State.REJECTED,
    Event.TRANSPORT_FAILED: State.WAITING,
    Event.DEVICE_FAILED: State.ROLLED_BACK,
    Event.INTERRUPTED: State.RESOLVING,
} | _LEFT

TABLE: Final[dict[State, dict[Event, State]]] = {
    State.IDLE: {Event.WANTED: State.RESOLVING},
    State.RESOLVING: {Event.RESOLVED: State.FETCHING} | _CUT_SHORT,
    State.FETCHING: {Event.FETCHED: State.VERIFYING, Event.POSTPONED: State.DEFERRED} | _CUT_SHORT,
    State.VERIFYING: {Event.VERIFIED: State.PROBING} | _CUT_SHORT,
    State.PROBING: {
        Event.PROBED: State.ACTIVATING,
        Event.STAGED: State.SHADOWING,
        Event.POSTPONED: State.DEFERRED,
    }
    | _CUT_SHORT,
    State.SHADOWING: {Event.AGREED: State.ACTIVATING} | _CUT_SHORT,
    State.ACTIVATING: {Event.ACTIVATED: State.ACTIVE} | _CUT_SHORT,
    State.ACTIVE: {Event.WANTED: State.RESOLVING, Event.DEVICE_FAILED: State.ROLLED_BACK},
    State.DEFERRED: {Event.RETRIED: State.RESOLVING, Event.WANTED: State.RESOLVING} | _LEFT,
    State.WAITING: {Event.RETRIED: State.RESOLVING, Event.WANTED: State.RESOLVING} | _LEFT,
    State.REJECTED: {Event.WANTED: State.RESOLVING},
    State.ROLLED_BACK: {Event.WANTED: State.RESOLVING},
}

#: States in which an update is under way: after a restart it begins again at RESOLVING, with all chunks it holds.
UNDER_WAY: Final = frozenset(state for state, moves in TABLE.items() if Event.INTERRUPTED in moves)


def advance(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        ValueError: the table has no such move; a defect of the caller, never of what was received.
    """
    try:
        return TABLE[state][event]
    except KeyError as error:
        raise ValueError(f"{event.value!r} can't happen while {state.value}") from error


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    label = {state: state.name.lower() for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {label[State.IDLE]}"]
    lines += [
        f"    {label[state]} --> {label[after]}: {event.value}"
        for state, moves in TABLE.items()
        for event, after in moves.items()
    ]
    return "\n".join(lines) + "\n"

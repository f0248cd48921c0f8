"""The state machine of one model's update on one device, as a table. docs/update-machine.md has its diagram.

Rule 1: only this table decides which state follows which. Rule 2: this file knows nothing of how the steps are done.
States are adjectives or running work, events are past tense.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """The state of one model's update."""

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
    REMOVED = "removed"


class Event(StrEnum):
    """A result of a step, or an external event."""

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
    ABANDONED = "abandoned"
    KEPT = "kept"
    REMOVED = "removed"


#: The deployment is gone: nothing serves, or the version before is kept.
_ABANDONED: Final = {Event.ABANDONED: State.IDLE, Event.KEPT: State.ACTIVE}
#: Events that can end any step: the content was refused, the network or this device failed, a restart or another
#: deployment came, or the deployment is gone.
_INTERRUPTIONS: Final = {
    Event.REFUSED: State.REJECTED,
    Event.TRANSPORT_FAILED: State.WAITING,
    Event.DEVICE_FAILED: State.ROLLED_BACK,
    Event.INTERRUPTED: State.RESOLVING,
} | _ABANDONED

TABLE: Final[dict[State, dict[Event, State]]] = {
    State.IDLE: {Event.WANTED: State.RESOLVING},
    State.RESOLVING: {Event.RESOLVED: State.FETCHING, Event.REMOVED: State.REMOVED} | _INTERRUPTIONS,
    State.FETCHING: {Event.FETCHED: State.VERIFYING, Event.POSTPONED: State.DEFERRED} | _INTERRUPTIONS,
    State.VERIFYING: {Event.VERIFIED: State.PROBING} | _INTERRUPTIONS,
    State.PROBING: {
        Event.PROBED: State.ACTIVATING,
        Event.STAGED: State.SHADOWING,
        Event.POSTPONED: State.DEFERRED,
    }
    | _INTERRUPTIONS,
    State.SHADOWING: {Event.AGREED: State.ACTIVATING} | _INTERRUPTIONS,
    State.ACTIVATING: {Event.ACTIVATED: State.ACTIVE} | _INTERRUPTIONS,
    State.ACTIVE: {Event.WANTED: State.RESOLVING, Event.DEVICE_FAILED: State.ROLLED_BACK},
    State.DEFERRED: {Event.RETRIED: State.RESOLVING, Event.WANTED: State.RESOLVING} | _ABANDONED,
    State.WAITING: {Event.RETRIED: State.RESOLVING, Event.WANTED: State.RESOLVING} | _ABANDONED,
    State.REJECTED: {Event.WANTED: State.RESOLVING},
    State.ROLLED_BACK: {Event.WANTED: State.RESOLVING},
    State.REMOVED: {Event.WANTED: State.RESOLVING},
}

#: States in which an update is under way: after a restart it resumes at RESOLVING, with all chunks on the disk.
UNDER_WAY: Final = frozenset(state for state, moves in TABLE.items() if Event.INTERRUPTED in moves)


def advance(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        ValueError: the table has no such transition: a defect of the caller, never of received data.
    """
    try:
        return TABLE[state][event]
    except KeyError as error:
        raise ValueError(f"{event.value!r} can't happen while {state.value}") from error


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    label = {state: state.name.lower() for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {label[State.IDLE]}"]
    lines += [
        f"    {label[state]} --> {label[after]}: {event.value}"
        for state, moves in TABLE.items()
        for event, after in moves.items()
    ]
    return "\n".join(lines) + "\n"

"""The operator's acts on a rollout. Pure: each returns the rollout after it, or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from edgeml.fleet.rollouts.plan import ENDED, Phase, Rollout
from edgeml_core.errors import UsageError


def pause(rollout: Rollout, now_s: float) -> Rollout:  # noqa: ARG001 - an act's signature
    """Begin no further wave until `resume`; failures abort it in any case.

    Raises:
        UsageError: `usage`, when the rollout has ended.
    """
    _check(rollout, "paused", rollout.phase not in ENDED)
    return msgspec.structs.replace(rollout, phase=Phase.PAUSED, reason="by the operator")


def resume(rollout: Rollout, now_s: float) -> Rollout:
    """Continue a paused rollout; its wave waits for devices from now on.

    Raises:
        UsageError: `usage`, when the rollout isn't paused.
    """
    _check(rollout, "resumed", rollout.phase is Phase.PAUSED)
    return msgspec.structs.replace(rollout, phase=Phase.RUNNING, began_s=now_s, reason="")


def approve(rollout: Rollout, now_s: float) -> Rollout:  # noqa: ARG001 - an act's signature
    """Let the next wave begin, also if the one before it has yet to soak.

    Raises:
        UsageError: `usage`, when the rollout has ended or its plan asks for no approval.
    """
    _check(rollout, "approved", rollout.plan.approve and rollout.phase not in ENDED)
    phase = Phase.RUNNING if rollout.phase is Phase.AWAITING else rollout.phase
    return msgspec.structs.replace(rollout, phase=phase, approved=rollout.wave + 2)


def abort(rollout: Rollout, now_s: float) -> Rollout:  # noqa: ARG001 - an act's signature
    """End a rollout: its devices go back to the deployment before.

    Raises:
        UsageError: `usage`, when the rollout has ended.
    """
    _check(rollout, "aborted", rollout.phase not in ENDED)
    return msgspec.structs.replace(rollout, phase=Phase.ABORTED, reason="by the operator")


def roll_back(rollout: Rollout, now_s: float) -> Rollout:  # noqa: ARG001 - an act's signature
    """Take back a completed rollout: the deployments that it replaced are signed again.

    Raises:
        UsageError: `usage`, when the rollout isn't complete.
    """
    _check(rollout, "rolled back", rollout.phase is Phase.COMPLETED)
    return msgspec.structs.replace(rollout, phase=Phase.ROLLED_BACK, reason="by the operator", is_open=True)


def check_next(rollout: Rollout, wave: int) -> None:
    """Check that a wave is still the next one, counted from 1: else the operator has seen an earlier state.

    Raises:
        UsageError: `usage`.
    """
    if wave != rollout.wave + 2:
        message = f"rollout {rollout.id} has begun wave {rollout.wave + 1}: wave {wave} isn't the next one"
        raise UsageError("usage", message, "load its page again, or see `edgeml fleet rollout show`")


#: The acts by the name of their command.
ACTS: Final[dict[str, Callable[[Rollout, float], Rollout]]] = {
    "pause": pause,
    "resume": resume,
    "approve": approve,
    "abort": abort,
    "rollback": roll_back,
}
#: The command for a rollout in a phase that another command doesn't take.
_HINTS: Final = {
    Phase.COMPLETED: "take it back with `edgeml fleet rollout rollback`",
    Phase.ABORTED: "deploy the release again",
    Phase.ROLLED_BACK: "deploy the release again",
    Phase.PAUSED: "continue it with `edgeml fleet rollout resume`, or end it with `abort`",
}


def _check(rollout: Rollout, participle: str, is_possible: bool) -> None:  # noqa: FBT001 - private
    if not is_possible:
        approval = ", without approvals" if not rollout.plan.approve else ""
        message = f"rollout {rollout.id} is {rollout.phase}{approval}: it can't be {participle}"
        raise UsageError("usage", message, _HINTS.get(rollout.phase, "see `edgeml fleet rollout show`"))

"""The fleet document that a rollout asks for. Pure, and the same when it is applied twice.

While a rollout is under way its deployment stands in the document with the share of the newest wave, 0 before the
first. The deployments that it will replace stay beside it, so an abort only takes it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edgeml.fleet.rollouts.plan import ENDED, Phase, Rollout
from edgeml.repository import deployments
from edgeml_core import desired
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.errors import UsageError


def follow(document: FleetDocument, rollout: Rollout, labels: Mapping[str, Mapping[str, str]]) -> FleetDocument:
    """Return the document that follows the rollout's last decision.

    An ended rollout whose deployment isn't in the document changes nothing: another one has taken its place. One with
    its id that isn't in waves is complete already, or another that was signed before it: only a rollback takes it out.

    Args:
        document: the signed one.
        rollout: as it is recorded.
        labels: the signed labels of each enrolled device.
    """
    rules = document.deployments
    index = next((at for at, it in enumerate(rules) if it.id == rollout.id), None)
    if index is None and rollout.phase in ENDED:
        return document
    if index is not None and not rules[index].in_waves and rollout.phase is not Phase.ROLLED_BACK:
        return document
    before, after = (rules, ()) if index is None else (rules[:index], rules[index + 1 :])
    signed = msgspec.structs.replace(rollout.deployment, percent=rollout.percent)
    match rollout.phase:
        case Phase.ABORTED:
            changed = (*_removal(signed, (*before, *after), labels), *before, *after)
        case Phase.ROLLED_BACK:
            changed = (
                *_removal(signed, (*before, *rollout.replaced, *after), labels),
                *before,
                *rollout.replaced,
                *after,
            )
        case Phase.COMPLETED:
            complete = msgspec.structs.replace(signed, in_waves=False)
            changed = (*deployments.kept(before, signed), complete, *after)
        case _:
            changed = (*before, signed, *after)
    return msgspec.structs.replace(document, deployments=changed)


def planned(document: FleetDocument, rollouts: Sequence[Rollout]) -> list[Deployment]:
    """Return the deployments that rollouts may sign later: those under way, and what a rollback brings back."""
    signed = {it.id for it in document.deployments}
    under_way = [it.deployment for it in rollouts if it.phase not in ENDED]
    return under_way + [old for it in rollouts if it.phase in ENDED and it.id in signed for old in it.replaced]


def check_not_replaced(document: FleetDocument, rollout: Rollout) -> None:
    """Check that a complete rollout's deployment is signed: without it a rollback would change nothing.

    Raises:
        UsageError: `usage`, with the deployments that took its place.
    """
    if all(it.id != rollout.id for it in document.deployments):
        newer = ", ".join(it.id for it in document.deployments if it.name == rollout.deployment.name)
        message = f"rollout {rollout.id} can't be rolled back: its deployment was replaced by {newer or 'none'}"
        raise UsageError("usage", message, "deploy the version that shall serve, with `edgeml fleet deploy`")


def replaced_by(document: FleetDocument, rollout: Rollout) -> tuple[Deployment, ...]:
    """Return the deployments that the rollout takes the place of when it is complete."""
    signed = msgspec.structs.replace(rollout.deployment, percent=rollout.percent)
    others = [it for it in document.deployments if it.id != rollout.id]
    kept = deployments.kept(others, signed)
    return tuple(it for it in others if it not in kept)


def _removal(
    ended: Deployment, others: tuple[Deployment, ...], labels: Mapping[str, Mapping[str, str]]
) -> tuple[Deployment, ...]:
    """Make the removal for touched devices that had no version before; deployments that stand later are stronger."""
    same_model = [it for it in others if it.name == ended.name]
    touched = [(device, it) for device, it in labels.items() if desired.includes(ended, device, it)]
    if all(any(desired.includes(it, *device) for it in same_model) for device in touched):
        return ()
    # Another attempt at the same deployment has the same order of devices, so it selects those that were touched.
    return (msgspec.structs.replace(ended, id=desired.next_attempt(ended.id), version="", bundles=(), in_waves=False),)

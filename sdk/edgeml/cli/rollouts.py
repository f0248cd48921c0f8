"""`edgeml fleet rollout`: see the rollouts of a fleet, and pause, resume, approve, abort or take back one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from edgeml.cli.fleet_options import Command, database_options, repository_option
from edgeml.cli.output import Duration, Output, Percent, command, require_extra, table
from edgeml_core.errors import UsageError

if TYPE_CHECKING:
    from edgeml.fleet.rollouts.outcomes import DeviceOutcome
    from edgeml.fleet.rollouts.plan import Plan, Rollout
    from edgeml_core.desired import Deployment, FleetDocument


#: The options of a plan, and the field that each sets.
_PLAN: Final[dict[str, dict[str, Any]]] = {
    "--soak": {"metavar": "TIME", "type": Duration(), "help": "Between two waves; default: 10m."},
    "--abort-above": {"metavar": "PERCENT", "type": Percent(), "help": "Of failed devices; default: 2%."},
    "--sample": {"metavar": "N", "type": click.IntRange(min=1), "help": "Ended devices before it counts; default: 10."},
    "--wait": {"metavar": "TIME", "type": Duration(), "help": "For silent devices of a wave; default: 1d."},
    "--approve": {"is_flag": True, "help": "Each wave but the first waits for `edgeml fleet rollout approve`."},
    "--drift": {"type": click.Choice(["moderate", "major"]), "help": "Drift of this grade counts as a failure."},
    "--slower": {
        "metavar": "TIMES",
        "type": float,
        "help": "So does a run that takes as many times as long as before.",
    },
    "--hours": {"metavar": "HH:MM-HH:MM", "help": "When a wave may begin; default: always."},
    "--zone": {"metavar": "ZONE", "help": "The hours' time zone, as Europe/Berlin; default: UTC."},
}
_FIELDS: Final = {
    "soak": "soak_s",
    "abort_above": "abort_above",
    "sample": "sample_min",
    "wait": "wait_s",
    "hours": "window",
}


def plan_options(command: Command) -> Command:
    """Add the options of a plan to a command."""
    for name, options in reversed(_PLAN.items()):
        command = click.option(name, **options)(command)
    return click.option("--waves", metavar="PERCENT,...", help="A rollout by these shares, as 5%,25%,100%.")(command)


def take_plan(options: dict[str, Any]) -> Plan | None:
    """Take the options of a plan out of a command's options; None if it has no waves.

    Raises:
        UsageError: `usage`, for malformed waves, or conditions without waves.
    """
    from edgeml.fleet.rollouts.plan import Plan  # noqa: PLC0415 - kept out of --help

    waves = options.pop("waves")
    names = [name.removeprefix("--").replace("-", "_") for name in _PLAN]
    values = {name: options.pop(name) for name in names}
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    if waves is None:
        if given:
            message = f"--{next(iter(given)).replace('_', '-')} is for a rollout"
            raise UsageError("usage", message, "give --waves, as 5%,25%,100%")
        return None
    shares = tuple(Percent().convert(it.strip(), None, None) * 100 for it in waves.split(","))
    if "abort_above" in given:
        given["abort_above"] *= 100
    return Plan(waves=shares, **{_FIELDS.get(name, name): value for name, value in given.items()})


def begin(
    out: Output,
    repo: Path,
    what: tuple[str, str | None, str],
    plan: Plan,
    *,
    others: dict[str, Any],
    database: dict[str, Any],
) -> None:
    """Begin the rollout of a model, a version and a selector.

    Args:
        out: gets the rollout.
        repo: the repository's folder.
        what: the model, its version, and the devices.
        plan: the waves.
        others: options of `deploy`, of which a rollout takes `--allow-empty` alone.
        database: the options of the database.
    """
    require_extra("fleet")
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    allow_empty = others.pop("--allow-empty")
    if refused := [name for name, value in others.items() if value]:
        raise UsageError("usage", f"{refused[0]} doesn't go with --waves", "leave one of them out")
    name, version, selector = what
    found = Fleet(repo, **database).roll_out(name, version, plan=plan, to=selector, allow_empty=allow_empty)
    phase, wave, share = _progress(found)
    text = f"{found.id} to {selector or 'all'}: {phase}, wave {wave}, {share}"
    out.result(found.to_dict(), f"{text}\nfollow it with `edgeml fleet rollout show {found.id}`")


def planned(repo: Path, database: dict[str, Any]) -> Callable[[FleetDocument], Sequence[Deployment]]:
    """Return what finds the deployments that rollouts may sign later; none where there is no database.

    Args:
        repo: the repository's folder.
        database: the options of the database.

    Raises:
        UsageError: `usage`, when the rollouts lie in a database that the options must name.
    """
    from edgeml.repository import opened  # noqa: PLC0415 - kept out of --help
    from edgeml.repository.layout import DATABASE_FILE  # noqa: PLC0415 - as above

    if not database["database"]:
        if known := opened(repo).enrollments.address("database"):
            message = f"the rollouts of the fleet lie in {known}: without them needed chunks would go"
            raise UsageError("usage", message, "name that database with --database")
        if not (repo / DATABASE_FILE).is_file():
            return lambda _: ()
    require_extra("fleet")
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help
    from edgeml.fleet.rollouts import following  # noqa: PLC0415 - as above

    fleet = Fleet(repo, **database)
    return lambda document: following.planned(document, fleet.rollouts())


@click.group()
def rollout() -> None:
    """See rollouts, and steer one: by its id, or by its model for the newest."""


@rollout.command("list")
@repository_option
@database_options
@command(extra="fleet", examples=("edgeml fleet rollout list --repo ./repo",))
def list_rollouts(out: Output, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Print the rollouts, the newest first."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    found = Fleet(repo, **database).rollouts()
    rows = [(it.id, it.deployment.selector or "all", *_progress(it), it.reason) for it in found]
    value = {"rollouts": [it.to_dict() for it in found]}
    out.result(value, table(("rollout", "to", "phase", "wave", "share", "reason"), rows))


@rollout.command()
@click.argument("name", metavar="ROLLOUT|MODEL")
@repository_option
@database_options
@command(extra="fleet", examples=("edgeml fleet rollout show minilm --repo ./repo",))
def show(out: Output, name: str, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Print how far a rollout is, and the devices of its waves that failed or have yet to end."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    found, devices = Fleet(repo, **database).rollout(name)
    phase, wave, share = _progress(found)
    counts = Counter(str(it.outcome) for it in devices)
    text = f"{found.id}: {phase}, wave {wave}, {share} of {len(devices)} device(s){_reason(found)}"
    named = [it for it in devices if it.outcome != "succeeded"]
    value = {
        **found.to_dict(),
        "counts": dict(counts),
        "devices": [msgspec.to_builtins(it) for it in devices],
    }
    out.result(value, f"{text}\n{_device_table(named)}" if named else text)


def _act(act: str, text: str) -> click.Command:
    """Make the command of one act."""

    def run(out: Output, name: str, repo: Path, wave: int | None = None, **database: Any) -> None:  # noqa: ANN401
        from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

        found = Fleet(repo, **database).steer(name, act, wave=wave)
        out.result(found.to_dict(), f"{found.id}: {', wave '.join(_progress(found)[:2])}{_reason(found)}")

    run.__name__, run.__doc__ = act, text
    decorated = command(extra="fleet", examples=(f"edgeml fleet rollout {act} minilm --repo ./repo",))(run)
    with_options = repository_option(database_options(decorated))
    if act == "approve":
        number = click.IntRange(min=1)
        with_options = click.option("--wave", metavar="N", type=number, help="Only if it is the next.")(with_options)
    return click.command(act)(click.argument("name", metavar="ROLLOUT|MODEL")(with_options))


for _name, _text in {
    "pause": "Begin no further wave until `resume`; failures abort the rollout in any case.",
    "resume": "Continue a paused rollout.",
    "approve": "Let the next wave begin.",
    "abort": "End a rollout: its devices go back to the deployment before.",
    "rollback": "Take back a complete rollout: the deployments that it replaced are signed again.",
}.items():
    rollout.add_command(_act(_name, _text))


def _progress(found: Rollout) -> tuple[str, str, str]:
    return str(found.phase), f"{found.wave + 1} of {len(found.plan.waves)}", f"{found.percent:g} %"


def _reason(found: Rollout) -> str:
    return f": {found.reason}" if found.reason else ""


def _device_table(devices: list[DeviceOutcome]) -> str:
    return table(("device", "outcome", "code"), [(it.device, str(it.outcome), it.code) for it in devices])

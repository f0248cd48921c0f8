"""`edgeml fleet rule`: how the host answers drift, failures, silence and rollouts."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.fleet_options import repository_option
from edgeml.cli.output import Duration, Output, command, table

_EVENTS = ("rollout", "failed", "canary", "drift-moderate", "drift-major", "silent")


@click.group()
def rule() -> None:
    """Set how a running `edgeml fleet serve` answers what devices report."""


@rule.command("set")
@click.argument("event", type=click.Choice(_EVENTS))
@click.argument("actions", nargs=-1, required=True, type=click.Choice(("notify", "pause", "collect")))
@repository_option
@click.option("--after", metavar="TIME", type=Duration(), help="For silent: without a connection; default: 1d.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet rule set drift-major pause notify collect --repo ./repo",
        "edgeml fleet rule set silent notify --after 2h --repo ./repo",
    ),
)
def set_(out: Output, event: str, actions: tuple[str, ...], repo: Path, after: float | None) -> None:
    """Answer EVENT by ACTIONS: notify, pause the rollouts that it concerns, or collect the device's log and checks."""
    _save(out, repo, event, actions, after)


@rule.command()
@click.argument("event", type=click.Choice(_EVENTS))
@repository_option
@command(extra="fleet", examples=("edgeml fleet rule remove failed --repo ./repo",))
def remove(out: Output, event: str, repo: Path) -> None:
    """Answer EVENT no more."""
    _save(out, repo, event, (), None)


@rule.command("list")
@repository_option
@command(extra="fleet", examples=("edgeml fleet rule list --repo ./repo",))
def list_(out: Output, repo: Path) -> None:
    """Print the rules. A repository that has set none notifies of all events but drift-moderate."""
    from edgeml.fleet.rules import saved  # noqa: PLC0415 - kept out of --help
    from edgeml.repository import opened  # noqa: PLC0415 - as above

    _print(out, saved.saved(opened(repo)))


def _save(out: Output, repo: Path, event: str, actions: tuple[str, ...], after: float | None) -> None:
    from edgeml.fleet.rules import saved  # noqa: PLC0415 - kept out of --help
    from edgeml.fleet.rules.answers import Action, Event  # noqa: PLC0415 - as above
    from edgeml.repository import layout  # noqa: PLC0415 - as above

    chosen = [Action(it) for it in actions]
    _print(out, saved.save(layout.opened(repo), Event(event), chosen, after_s=after, now=layout.utc_now()))


def _print(out: Output, rules: object) -> None:
    value = msgspec.to_builtins(rules)
    rows = [
        (event, " ".join(it["actions"]), f"{it['after_s']:g} s" if event == "silent" else "")
        for event, it in sorted(value.items())
    ]
    out.result({"rules": value}, table(("event", "actions", "after"), rows))

"""`edgeml fleet`: serve a fleet, deploy to it and watch it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from edgeml.cli.output import Moment, Output, Percent, command
from edgeml_core import selectors
from edgeml_core.errors import DeviceError

if TYPE_CHECKING:
    from edgeml.fleet.status import Failure

#: Seconds between two looks of `status --watch`: hosts give a sign of life every three.
WATCH_EVERY_S: Final = 2.0
Command = TypeVar("Command", bound=Callable[..., Any])

_repo = click.option("--repo", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The repository.")
_FILE = click.Path(path_type=Path)


def _database(command: Command) -> Command:
    named = click.option(
        "--database", metavar="FILE|URL", help="The registry, a file or postgresql://...; default: fleet.db in DIR."
    )
    with_password = click.option(
        "--database-password-file", metavar="FILE", type=_FILE, help="The password of the database's user, on one line."
    )
    return named(with_password(command))


def _chosen(command: Command) -> Command:
    state = click.option(
        "--state", metavar="STATE", default="", help="Only devices in it: failed, offline, active, fetching, ..."
    )
    label = click.option("--label", "labels", metavar="K=V", multiple=True, help="Only devices with this label.")
    return state(label(command))


@click.group()
def fleet() -> None:
    """Serve a fleet, deploy to it and watch it."""


@fleet.command()
@_repo
@_database
@click.option("--broker", metavar="URL", required=True, help="mqtt[s]://[USER@]HOST[:PORT]")
@click.option("--password-file", metavar="FILE", type=_FILE, help="The password of USER, on one line.")
@click.option("--ca", metavar="FILE", type=_FILE, help="The broker's authority; default: the system's.")
@click.option("--cert", metavar="FILE", type=_FILE, help="This host's own certificate.")
@click.option("--key", metavar="FILE", type=_FILE, help="The key of --cert.")
@click.option("--max-bytes-per-s", metavar="N", type=click.IntRange(min=1), help="Of chunks, to all devices together.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet serve --repo ./repo --broker mqtt://127.0.0.1",
        "edgeml fleet serve --repo ./repo --broker mqtts://origin@broker.example --password-file origin.password",
        "edgeml fleet serve --repo ./repo --broker mqtts://broker.example --ca ca.pem --cert host.pem --key host.key",
    ),
)
def serve(out: Output, repo: Path, broker: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Announce the repository, send the chunks that devices ask for, and record their reports, until stopped."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    max_bytes_per_s = options.pop("max_bytes_per_s")
    Fleet(repo, broker=broker, **options).serve(out, max_bytes_per_s=max_bytes_per_s)


@fleet.command()
@click.argument("release", metavar="NAME[:VERSION]")
@_repo
@click.option("--to", metavar="SELECTOR", multiple=True, help="By labels: 'site in (a,b),!old'; default: all devices.")
@click.option("--device", "ids", metavar="ID", multiple=True, help="These devices alone.")
@click.option("--allow-empty", is_flag=True, help="Also if no enrolled device is selected yet.")
@click.option("--percent", type=Percent(), default=1.0, show_default="100%", help="Of the devices selected.")
@click.option(
    "--activate-after", metavar="TIME", type=Moment(), help="Fetch now, serve from TIME on: 2030-01-31T22:00."
)
@click.option("--again", is_flag=True, help="Devices that failed at it or rolled it back try once more.")
@click.option("--dry-run", is_flag=True, help="Change nothing; print the release and its devices.")
@command(
    examples=(
        "edgeml fleet deploy minilm --repo ./repo --to site=barn --dry-run",
        "edgeml fleet deploy minilm:2 --repo ./repo --to 'site in (farm-7,farm-8),target!=rpi4' --percent 25%",
        "edgeml fleet deploy minilm:2 --repo ./repo --device barn-1 --device barn-2",
        "edgeml fleet deploy minilm --repo ./repo --activate-after 2030-01-31T22:00",
    )
)
def deploy(
    out: Output,
    release: str,
    repo: Path,
    to: tuple[str, ...],
    ids: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Sign that devices run a release: the version that was published last, when none is named.

    In a selector a comma is `and`, ` or ` is or; `k!=v` and `!k` also take devices without the label. A running
    `edgeml fleet serve` announces the deployment.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    name, _, version = release.partition(":")
    selector, percent = selectors.parse_all(to, devices=ids), options.pop("percent") * 100
    deployed = Repository.open(repo).deploy(name, version or None, to=str(selector), percent=percent, **options)
    signed = deployed.deployment
    devices = f"{signed.selector or 'all'}, {signed.percent:g} %: {len(deployed.devices)} device(s)"
    done = "would deploy" if options["dry_run"] else "deployed"
    value = {**msgspec.to_builtins(signed), "devices": deployed.devices, "dry_run": options["dry_run"]}
    when = f", serving after {signed.activate_after:%Y-%m-%d %H:%M} UTC" if signed.activate_after else ""
    if not deployed.devices:
        out.note("warning: no enrolled device is selected; devices that are enrolled with these labels will be")
    out.result(value, f"{done} {signed.name} {signed.version} to {devices}{when} ({signed.id})")
    if ended := ", ".join(f"{it.device} ({it.code})" for it in _failures(out, repo, signed.id)):
        out.note(f"warning: these devices have ended this deployment and don't try it again: {ended}; use --again")


@fleet.command()
@_repo
@_database
@_chosen
@click.option("--watch", is_flag=True, help=f"Print it again every {WATCH_EVERY_S:g} s, until interrupted.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet status --repo ./repo",
        "edgeml fleet status --repo ./repo --watch",
        "edgeml fleet status --repo ./repo --state failed --label site=farm-7 --json",
    ),
)
def status(out: Output, repo: Path, *, watch: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Print how far each deployment is, every failure, and the devices that aren't well; or those that are chosen.

    A device is well when it is online, accepts the signed files, and runs all that is deployed to it.
    """
    from edgeml.cli import fleet_tables  # noqa: PLC0415 - kept out of --help

    look = fleet_tables.look(repo, **options)
    if watch:
        fleet_tables.watch(out, look, WATCH_EVERY_S)
    else:
        out.result(*look())


@fleet.command()
@_repo
@_database
@_chosen
@click.option(
    "--after", metavar="DEVICE", default="", help="Begin behind this device: the last one of the page before."
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Print this number of devices at most.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet devices --repo ./repo",
        "edgeml fleet devices --repo ./repo --state offline --label site=farm-7",
        "edgeml fleet devices --repo ./repo --limit 500 --after barn-0499 --json",
    ),
)
def devices(out: Output, repo: Path, after: str, limit: int | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Print the enrolled devices with the last state of each; all, or those that are chosen."""
    from edgeml.cli import fleet_tables  # noqa: PLC0415 - kept out of --help

    out.result(*fleet_tables.devices(repo, after=after, limit=limit, **options))


def _failures(out: Output, repo: Path, deployment: str) -> tuple[Failure, ...]:
    """The devices that have ended a deployment, by the registry in the repository; none where there is no registry."""
    from edgeml.repository.layout import DATABASE_FILE  # noqa: PLC0415 - kept out of --help

    if not (repo / DATABASE_FILE).is_file():
        return ()
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - a workstation without the extra has no such file

    try:
        return next((it.failures for it in Fleet(repo).status().deployments if it.id == deployment), ())
    except DeviceError as error:
        out.note(f"warning: what devices have reported can't be read: {error.message}")
        return ()

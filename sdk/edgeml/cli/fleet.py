"""`edgeml fleet`: serve a fleet, deploy to it and watch it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from edgeml.cli.output import Moment, Output, Percent, command, printable, table
from edgeml_core import names
from edgeml_core.errors import DeviceError

if TYPE_CHECKING:
    from edgeml.fleet.status import DeviceStatus, Failure, FleetStatus

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
@click.option("--to", "selector", metavar="K=V,...", multiple=True, help="Labels to have; default: all devices.")
@click.option("--percent", type=Percent(), default=1.0, show_default="100%", help="Of the devices selected.")
@click.option(
    "--activate-after", metavar="TIME", type=Moment(), help="Fetch now, serve from TIME on: 2030-01-31T22:00."
)
@click.option("--again", is_flag=True, help="Devices that failed at it or rolled it back try once more.")
@click.option("--dry-run", is_flag=True, help="Change nothing; print the release and its devices.")
@command(
    examples=(
        "edgeml fleet deploy minilm --repo ./repo --to site=barn --dry-run",
        "edgeml fleet deploy minilm:2 --repo ./repo --to site=barn,target=rpi4 --percent 25%",
        "edgeml fleet deploy minilm --repo ./repo --activate-after 2030-01-31T22:00",
    )
)
def deploy(out: Output, release: str, repo: Path, selector: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
    """Sign that devices run a release: the version that was published last, when none is named.

    A running `edgeml fleet serve` announces it.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    name, _, version = release.partition(":")
    labels, percent = names.parse_labels(selector), options.pop("percent") * 100
    deployed = Repository.open(repo).deploy(name, version or None, to=labels, percent=percent, **options)
    signed = deployed.deployment
    devices = f"{_pairs(labels) or 'all'}, {signed.percent:g} %: {len(deployed.devices)} device(s)"
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
@command(extra="fleet", examples=("edgeml fleet status --repo ./repo", "edgeml fleet status --repo ./repo --json"))
def status(out: Output, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Print how far each deployment is, and every failure."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    found = Fleet(repo, **database).status()
    out.result(found.to_dict(), _status_text(found))


@fleet.command()
@_repo
@_database
@command(extra="fleet", examples=("edgeml fleet devices --repo ./repo", "edgeml fleet devices --repo ./repo --json"))
def devices(out: Output, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Print every enrolled device with its last state."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    found = Fleet(repo, **database).devices()
    headers = ("device", "online", "last seen (UTC)", "labels", "models", "drift")
    out.result({"devices": [it.to_dict() for it in found]}, table(headers, map(_device_row, found)))


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


def _device_row(device: DeviceStatus) -> tuple[str, ...]:
    seen = f"{datetime.fromtimestamp(device.seen_s, UTC):%Y-%m-%d %H:%M:%S}" if device.seen_s else "never"
    models = ", ".join(f"{name} {model.version} ({model.state})" for name, model in device.models.items())
    drifts = {name: model.drift.summary for name, model in device.models.items() if model.drift is not None}
    drift = ", ".join(text if len(device.models) == 1 else f"{name} {text}" for name, text in drifts.items())
    return device.id, "yes" if device.online else "no", seen, _pairs(device.labels), models, drift


def _status_text(found: FleetStatus) -> str:
    rows = [
        (it.id, f"{it.name} {it.version}", _pairs(it.selector) or "all", f"{it.percent:g} %", it.devices,
         ", ".join(f"{count} {state}" for state, count in it.states.items()))
        for it in found.deployments
    ]  # fmt: skip
    failures = [
        printable(f"{failure.device}: error[{failure.code}]: {failure.message}")
        for failure in (*found.refusals, *(failure for it in found.deployments for failure in it.failures))
    ]
    drifts = [printable(f"{it.device}: {it.name} {it.version} drifts: {it.drift.summary}") for it in found.drifted]
    withdrawn = [
        printable(f"{it.device}: serves {it.name} {it.version}, which is withdrawn: deploy another version")
        for it in found.withdrawn
    ]
    summary = f"fleet {found.fleet}: {found.online} of {found.devices} device(s) online"
    headers = ("deployment", "release", "to", "share", "devices", "states")
    return "\n".join((summary, table(headers, rows), *failures, *withdrawn, *drifts))


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())

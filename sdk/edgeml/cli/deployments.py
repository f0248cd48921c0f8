"""`edgeml fleet deploy`, `undeploy` and `unpin`: the signed rules of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeml.cli import rollouts
from edgeml.cli.fleet_options import database_options, device_options, repository_option, take_database
from edgeml.cli.output import Moment, Output, Percent, command
from edgeml_core.errors import DeviceError

if TYPE_CHECKING:
    from edgeml.fleet.status import Failure


@click.command()
@click.argument("release", metavar="NAME[:VERSION]")
@repository_option
@device_options
@click.option("--allow-empty", is_flag=True, help="Also if no enrolled device is selected yet.")
@click.option("--percent", type=Percent(), default=1.0, show_default="100%", help="Of the devices selected.")
@click.option(
    "--activate-after", metavar="TIME", type=Moment(), help="Fetch now, serve from TIME on: 2030-01-31T22:00."
)
@click.option("--again", is_flag=True, help="Devices that failed at it or rolled it back try once more.")
@click.option("--pin", is_flag=True, help="Hold these devices on it against later deployments, until `unpin`.")
@rollouts.plan_options
@database_options
@click.option("--dry-run", is_flag=True, help="Change nothing; print the release and its devices.")
@command(
    examples=(
        "edgeml fleet deploy minilm --repo ./repo --to site=barn --dry-run",
        "edgeml fleet deploy minilm:2 --repo ./repo --to 'site in (farm-7,farm-8),target!=rpi4' --percent 25%",
        "edgeml fleet deploy minilm:1 --repo ./repo --device barn-1 --device barn-2 --pin",
        "edgeml fleet deploy minilm --repo ./repo --activate-after 2030-01-31T22:00",
        "edgeml fleet deploy minilm:2 --repo ./repo --waves 5%,25%,100% --soak 10m --abort-above 2%",
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
    `edgeml fleet serve` announces the deployment. With --waves it is a rollout: see `edgeml fleet rollout`.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    name, _, version = release.partition(":")
    selector, percent = Repository.open(repo).select(*to, devices=ids), options.pop("percent") * 100
    plan, database = rollouts.take_plan(options), take_database(options)
    if plan is not None:
        others = {"--percent": percent < 100, **{f"--{key.replace('_', '-')}": value for key, value in options.items()}}
        rollouts.begin(out, repo, (name, version or None, selector), plan, others=others, database=database)
        return
    deployed = Repository.open(repo).deploy(name, version or None, to=selector, percent=percent, **options)
    signed = deployed.deployment
    devices = f"{signed.selector or 'all'}, {signed.percent:g} %: {len(deployed.devices)} device(s)"
    pinned = ", pinned" if signed.pinned else ""
    done = "would deploy" if options["dry_run"] else "deployed"
    value = {**msgspec.to_builtins(signed), "devices": deployed.devices, "dry_run": options["dry_run"]}
    when = f", serving after {signed.activate_after:%Y-%m-%d %H:%M} UTC" if signed.activate_after else ""
    if not deployed.devices:
        out.note("warning: no enrolled device is selected; devices that are enrolled with these labels will be")
    out.result(value, f"{done} {signed.name} {signed.version} to {devices}{when}{pinned} ({signed.id})")
    if ended := ", ".join(f"{it.device} ({it.code})" for it in _failures(out, repo, signed.id, database)):
        out.note(f"warning: these devices have ended this deployment and don't try it again: {ended}; use --again")


@click.command()
@click.argument("name")
@repository_option
@device_options
@command(
    examples=(
        "edgeml fleet undeploy minilm --repo ./repo",
        "edgeml fleet undeploy minilm --repo ./repo --to site=barn",
    )
)
def undeploy(out: Output, name: str, repo: Path, to: tuple[str, ...], ids: tuple[str, ...]) -> None:
    """Sign that devices stop serving a model, once its accepted requests are answered, and free their disks."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    repository = Repository.open(repo)
    removed = repository.undeploy(name, to=repository.select(*to, devices=ids))
    signed, devices = removed.deployment, f"{len(removed.devices)} device(s)"
    out.result(
        {**msgspec.to_builtins(signed), "devices": removed.devices},
        f"{name} leaves {signed.selector or 'all'}: {devices} ({signed.id})",
    )


@click.command()
@click.argument("name")
@repository_option
@device_options
@command(examples=("edgeml fleet unpin minilm --repo ./repo --device barn-1",))
def unpin(out: Output, name: str, repo: Path, to: tuple[str, ...], ids: tuple[str, ...]) -> None:
    """End pinned deployments of a model, so that its other deployments hold again."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    repository = Repository.open(repo)
    ended = repository.unpin(name, to=repository.select(*to, devices=ids))
    out.result({"deployments": ended}, f"ended {', '.join(ended)}")


def _failures(out: Output, repo: Path, deployment: str, database: dict[str, Any]) -> tuple[Failure, ...]:
    """The devices that have ended a deployment, by the registry in the repository; none where there is no registry."""
    from edgeml.repository.layout import DATABASE_FILE  # noqa: PLC0415 - kept out of --help

    if not database["database"] and not (repo / DATABASE_FILE).is_file():
        return ()
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - a workstation without the extra has no such file

    try:
        return next((it.failures for it in Fleet(repo, **database).status().deployments if it.id == deployment), ())
    except DeviceError as error:
        out.note(f"warning: what devices have reported can't be read: {error.message}")
        return ()

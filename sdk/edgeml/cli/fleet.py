"""`edgeml fleet`: serve a fleet, deploy to it and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from edgeml.cli import accounts, audit, calls, deployments, fleet_broker, rollouts, rules, selectors
from edgeml.cli.fleet_options import (
    FILE,
    Command,
    broker_options,
    database_options,
    repository_option,
    take_webhook,
    webhook_options,
)
from edgeml.cli.output import Output, command

#: Seconds between two looks of `status --watch`: hosts give a sign of life every three.
WATCH_EVERY_S: Final = 2.0


def _chosen(command: Command) -> Command:
    state = click.option(
        "--state", metavar="STATE", default="", help="Only devices in it: failed, offline, active, fetching, ..."
    )
    label = click.option("--label", "labels", metavar="K=V", multiple=True, help="Only devices with this label.")
    return state(label(command))


@click.group()
def fleet() -> None:
    """Serve a fleet, deploy to it and watch it."""


for _command in (
    deployments.deploy,
    deployments.undeploy,
    deployments.unpin,
    rollouts.rollout,
    selectors.selector,
    audit.audit,
    fleet_broker.broker_config,
    fleet_broker.client_cert,
    calls.call,
    calls.logs,
    rules.rule,
    accounts.user,
):
    fleet.add_command(_command)


@fleet.command()
@repository_option
@database_options
@broker_options
@click.option(
    "--node", "nodes", metavar="URL", multiple=True, help="Of the broker's cluster: retain the signed files there, too."
)
@click.option("--with-broker", metavar="NAME[:PORT]", help="Run Mosquitto here; NAME is as devices reach this machine.")
@click.option(
    "--enroll", metavar="NAME[:PORT]", help="Let devices with a token enroll; default: NAME of --with-broker."
)
@click.option("--max-bytes-per-s", metavar="N", type=click.IntRange(min=1), help="Of chunks, to all devices together.")
@webhook_options
@click.option("--http", metavar="HOST:PORT", help="Serve the dashboard and its API there.")
@click.option("--http-cert", metavar="FILE", type=FILE, help="The dashboard's certificate, for HTTPS.")
@click.option("--http-key", metavar="FILE", type=FILE, help="The key of --http-cert.")
@click.option("--http-insecure", is_flag=True, help="Serve it beyond this machine without TLS, behind a proxy.")
@click.option(
    "--http-trusted-proxy",
    "http_trusted_proxies",
    metavar="ADDRESS",
    multiple=True,
    help="Believe this proxy, or network of proxies, who the client is.",
)
@command(
    extra="fleet",
    examples=(
        "edgeml fleet serve --repo ./repo --with-broker host.example",
        "edgeml fleet serve --repo ./repo --broker mqtt://127.0.0.1",
        "edgeml fleet serve --repo ./repo --broker mqtts://origin@broker.example --password-file origin.password",
        "edgeml fleet serve --repo ./repo --broker mqtts://broker.example --ca ca.pem --cert host.pem --key host.key",
        "edgeml fleet serve --repo ./repo --broker mqtt://127.0.0.1 --http 127.0.0.1:8000",
    ),
)
def serve(out: Output, repo: Path, broker: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Announce the repository, send the chunks that devices ask for, and record their reports, until stopped.

    With --with-broker it runs Mosquitto, too, and lets devices enroll. All clients then have certificates.
    """
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    serving = {name: options.pop(name) for name in ("max_bytes_per_s", "with_broker", "enroll")}
    serving["http"] = accounts.take_http(options)
    webhook = take_webhook(options)
    Fleet(repo, broker=broker, **options).serve(out, webhook=webhook, **serving)


@fleet.command()
@repository_option
@database_options
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
@repository_option
@database_options
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

"""`edgeml fleet broker-config` and `client-cert`: a broker's configuration, and certificates of its clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeml.cli.output import Output, command
from edgeml_core.errors import UsageError

if TYPE_CHECKING:
    from edgeml.repository.certificates import ClientRole

_repo = click.option("--repo", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The repository.")


@click.command("broker-config")
@click.argument("folder", metavar="BROKER_DIR", type=click.Path(path_type=Path))
@_repo
@click.option("--host", "hosts", metavar="NAME", multiple=True, help="As devices reach it; repeatable.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65_535), default=8883, show_default=True)
@click.option("--at", "seen_at", metavar="PATH", help="BROKER_DIR as the broker sees it, such as in a container.")
@click.option("--forget", is_flag=True, help="Write nothing; leave BROKER_DIR alone from now on, also when it is gone.")
@command(
    examples=(
        "edgeml fleet broker-config ./broker --repo ./repo --host broker.example",
        "edgeml fleet broker-config ./broker --repo ./repo --host broker.example --at /mosquitto/config",
        "edgeml fleet broker-config ./broker --repo ./repo --forget",
    )
)
def broker_config(
    *, out: Output, folder: Path, repo: Path, hosts: tuple[str, ...], port: int, seen_at: str | None, forget: bool
) -> None:
    """Write a complete configuration for Mosquitto 2.0 or 2.1: TLS, certificates, rights, limits, revoked certificates.

    Later commands that change clients or revoke certificates write BROKER_DIR again: keep it where the broker reads it.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    if forget == bool(hosts):
        message = "--forget takes no --host" if forget else "--host is missing"
        raise UsageError("usage", message, "give --host NAME for a broker's configuration, or --forget alone")
    if forget:
        Repository.open(repo).forget_broker(folder)
        out.result({"forgotten": str(folder)}, f"forgot {folder}")
        return
    made = Repository.open(repo).configure_broker(folder, *hosts, port=port, seen_at=seen_at)
    command = f"OPENSSL_CONF={Path(made.conf).with_name('openssl.cnf')} mosquitto -c {made.conf}"
    text = f"wrote {folder} for {made.url}, to run as {made.user}\nnext: {command}"
    if made.default_url != made.url:
        text += f"\ndevices are still enrolled with {made.default_url}; --forget its folder to change that"
    out.result(made.to_dict(), text)


@click.command("client-cert")
@click.argument("name", metavar="NAME")
@_repo
@click.option(
    "--role",
    type=click.Choice(("operator", "client", "homeassistant")),
    required=True,
    help="Calls devices; asks models; shows sensors.",
)
@click.option("-o", "--output", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(
    examples=(
        "edgeml fleet client-cert alice --role operator --repo ./repo -o alice",
        "edgeml fleet client-cert camera --role client --repo ./repo -o camera",
    )
)
def client_cert(out: Output, name: str, repo: Path, role: ClientRole, output: Path) -> None:
    """Write a key with a certificate for a client of the broker that is no device, and the broker's authority.

    `edgeml fleet serve --with-broker` gives it its rights within a second; another broker needs SIGHUP.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    made = Repository.open(repo).certify_client(name, role=role, output=output)
    where = made.broker or "mqtts://HOST"
    use = f"use: --broker {where} --cert {made.certificate} --ca {made.authority}"
    out.result(made.to_dict(), f"wrote {made.certificate} for {name}, {role}\n{use}")

"""`edgeml device`: enroll devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from edgeml.cli.output import Output, command
from edgeml_core import names

_FILE: Final = click.Path(path_type=Path)


@click.group()
def device() -> None:
    """Enroll devices."""


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--repo", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The repository.")
@click.option("--broker", metavar="URL", help="mqtt[s]://[USER@]HOST[:PORT] as the device sees it.")
@click.option("--password-file", metavar="FILE", type=_FILE, help="The password of USER; copied to DEVICE_DIR.")
@click.option(
    "--ca", metavar="FILE", type=_FILE, help="The broker's authority; copied. Default: the device's system's."
)
@click.option("--store", metavar="DIR", help="The device's folder for releases; default: store beside agent.toml.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Signed; `target` names the board.")
@click.option(
    "--group", "groups", metavar="GROUP", multiple=True, help="The device may read models that are encrypted for GROUP."
)
@click.option("-o", "--output", metavar="DEVICE_DIR", type=click.Path(path_type=Path), required=True)
@command(
    examples=(
        "edgeml device enroll pi-7 --repo ./repo --broker mqtt://10.0.0.2 --label target=rpi4,site=barn -o pi-7",
        "edgeml device enroll gate-1 --repo ./repo --broker mqtts://broker.example -o gate-1 --json",
        "edgeml device enroll pi-8 --repo ./repo --broker mqtts://pi-8@broker.example --password-file pi-8.pw -o pi-8",
        "edgeml device enroll pi-9 --repo ./repo --broker mqtts://10.0.0.2 --ca ca.pem --store /var/lib/edgeml -o pi-9",
    )
)
def enroll(
    *,
    out: Output,
    device_id: str,
    repo: Path,
    broker: str | None,
    labels: tuple[str, ...],
    groups: tuple[str, ...],
    output: Path,
    **files: Any,  # noqa: ANN401 - click's: ca, password_file and store
) -> None:
    """Make device ID part of the fleet, and write its agent.toml and trust roots to DEVICE_DIR.

    Without --broker, the device takes EDGEML_BROKER_URL from its environment.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    enrolled = Repository.open(repo).enroll(
        device_id, labels=names.parse_labels(labels), broker=broker, groups=groups, output=output, **files
    )
    text = f"enrolled {device_id}\nnext: copy {output} to it, and run `edgeml-agent run --config agent.toml` there"
    out.result(enrolled.to_dict(), text)

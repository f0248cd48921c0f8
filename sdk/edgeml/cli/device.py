"""`edgeml device`: the devices of a fleet, and their labels."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from edgeml.cli.output import Duration, Output, command, table
from edgeml_core import names
from edgeml_core.errors import UsageError

_FILE: Final = click.Path(path_type=Path)


@click.group()
def device() -> None:
    """Enroll, relabel, revoke and replace devices."""


_device: Final = click.argument("device_id", metavar="ID")
_repo: Final = click.option(
    "--repo", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The repository."
)
_broker: Final = click.option(
    "--broker",
    metavar="URL",
    help="mqtt[s]://[USER@]HOST[:PORT] as the device sees it; default: the broker that `fleet` commands set up.",
)
_password_file: Final = click.option(
    "--password-file", metavar="FILE", type=_FILE, help="The password of USER; copied to DEVICE_DIR."
)
_ca: Final = click.option(
    "--ca",
    metavar="FILE",
    type=_FILE,
    help="The broker's authority; copied. Default: the repository's, or the device's system's if the URL has a user.",
)
_store: Final = click.option(
    "--store", metavar="DIR", help="The device's folder for releases; default: store beside agent.toml."
)
_output: Final = click.option("-o", "--output", metavar="DEVICE_DIR", type=_FILE, required=True)


@device.command()
@_device
@_repo
@_broker
@_password_file
@_ca
@_store
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Signed; `target` names the board.")
@click.option(
    "--group", "groups", metavar="GROUP", multiple=True, help="The device may read models that are encrypted for GROUP."
)
@_output
@click.option("--relay", is_flag=True, help="The broker lets the device pass on the messages of its site.")
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
    **files: Any,  # noqa: ANN401 - click's: ca, password_file, store and relay
) -> None:
    """Make device ID part of the fleet, and write its agent.toml and trust roots to DEVICE_DIR.

    If the broker's URL is mqtts without a user, DEVICE_DIR gets a key and a certificate, too. Without a broker, the
    device takes EDGEML_BROKER_URL from its environment. `edgeml device token` lets devices make their keys themselves.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    enrolled = Repository.open(repo).enroll(
        device_id, labels=names.parse_labels(labels), broker=broker, groups=groups, output=output, **files
    )
    text = f"enrolled {device_id}\nnext: copy {output} to it, and run `edgeml-agent run --config agent.toml` there"
    out.result(enrolled.to_dict(), text)


@device.command()
@_device
@click.argument("changes", metavar="K=V|K-...", nargs=-1, required=True)
@_repo
@command(
    examples=(
        "edgeml device relabel pi-7 ring=early --repo ./repo",
        "edgeml device relabel pi-7 site=barn,target=rpi5 ring- --repo ./repo",
    )
)
def relabel(out: Output, device_id: str, changes: tuple[str, ...], repo: Path) -> None:
    """Change labels of device ID: K=V adds or replaces one, K- removes one.

    A running `edgeml fleet serve` sends the device its new record; nothing else is signed again.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    removed = [change.removesuffix("-") for change in changes if "=" not in change and change.endswith("-")]
    labels = names.parse_labels(change for change in changes if "=" in change or not change.endswith("-"))
    if both := sorted(labels.keys() & removed):
        raise UsageError("usage", f"label {', '.join(both)} is set and removed", "give each key once")
    changed = Repository.open(repo).relabel(device_id, labels, removed=removed)
    out.result(changed.to_dict(), f"{device_id} has {_pairs(changed.labels) or 'no labels'}, version {changed.version}")


@device.command()
@_device
@_repo
@command(examples=("edgeml device revoke pi-7 --repo ./repo",))
def revoke(out: Output, device_id: str, repo: Path) -> None:
    """Revoke device ID, such as a stolen board: it gets nothing new.

    Its certificates are revoked, too: the broker refuses them, and a running `edgeml fleet serve` ends its connection
    within seconds. The device goes on with the models that it has. `edgeml device replace` gives the id to another.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    revoked = Repository.open(repo).revoke(device_id)
    out.result(revoked.to_dict(), f"revoked {device_id}; if its user at the broker has a password, remove it there")


@device.command()
@_device
@_repo
@_broker
@_password_file
@_ca
@_store
@_output
@command(examples=("edgeml device replace pi-7 --repo ./repo --broker mqtts://broker.example -o pi-7-new",))
def replace(
    *,
    out: Output,
    device_id: str,
    repo: Path,
    broker: str | None,
    output: Path,
    **files: Any,  # noqa: ANN401 - click's: ca, password_file and store
) -> None:
    """Make a folder for another board in the place of device ID, which is broken or revoked.

    Labels and groups stay, and so does the id.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    replaced = Repository.open(repo).replace(device_id, broker=broker, output=output, **files)
    text = f"replaced {device_id}\nnext: copy {output} to the new board, and stop the old one"
    out.result(replaced.to_dict(), text)


@device.command("list")
@_repo
@command(examples=("edgeml device list --repo ./repo", "edgeml device list --repo ./repo --json"))
def list_devices(out: Output, repo: Path) -> None:
    """Print every device with its labels, also revoked ones. `edgeml fleet devices` prints their last states."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    found = Repository.open(repo).devices()
    rows = [
        (it.id, _pairs(it.labels), ",".join(it.groups), str(it.version), "revoked" if it.revoked else "")
        for it in found
    ]
    headers = ("device", "labels", "groups", "version", "state")
    out.result({"devices": [it.to_dict() for it in found]}, table(headers, rows))


@device.command()
@_device
@_repo
@command(examples=("edgeml device show pi-7 --repo ./repo",))
def show(out: Output, device_id: str, repo: Path) -> None:
    """Print the labels, groups and version of device ID, and the deployments that include it."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    repository = Repository.open(repo)
    found, deployments = repository.device(device_id), repository.deployments_of(device_id)
    lines = [
        f"{found.id}: version {found.version}{', revoked' if found.revoked else ''}",
        f"labels: {_pairs(found.labels) or 'none'}",
        f"groups: {', '.join(found.groups) or 'none'}",
        *(f"runs {it.name} {it.version} ({it.id})" for it in deployments),
    ]
    out.result({**found.to_dict(), "deployments": [it.id for it in deployments]}, "\n".join(lines))


@device.command()
@_repo
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Signed for each device that enrolls.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="The devices get the key of GROUP.")
@click.option("--count", metavar="N", type=int, default=1, show_default=True, help="The number of tokens.")
@click.option(
    "--expires", "life", metavar="SPAN", type=Duration(), default="7d", show_default=True, help="30m, 12h, 7d."
)
@click.option("--device", "device_id", metavar="ID", help="For this device alone, which may be enrolled already.")
@command(
    examples=(
        "edgeml device token --repo ./repo --label site=farm-7 --count 50 --expires 7d",
        "edgeml device token --repo ./repo --device pi-7 --expires 1h",
    )
)
def token(
    *,
    out: Output,
    repo: Path,
    labels: tuple[str, ...],
    groups: tuple[str, ...],
    count: int,
    life: float,
    device_id: str | None,
) -> None:
    """Print tokens with which devices enroll themselves. Each works once; only digests are kept.

    With --device a device gets its certificate again: its own has expired, or its board was replaced.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    made = Repository.open(repo).make_tokens(
        labels=names.parse_labels(labels), groups=groups, count=count, life=timedelta(seconds=life), device=device_id
    )
    url = made.url or "https://HOST:8443"
    device_option = f" --id {device_id}" if device_id else ""
    out.note(
        f"valid until {made.expires:%Y-%m-%d %H:%M} UTC; on each device: edgeml-agent enroll {url} TOKEN{device_option}"
    )
    out.result(made.to_dict(), "\n".join(made.tokens))


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())

"""`edgeml repo`: make a repository, keep its signatures fresh, change its keys, copy a site's part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeml.cli.output import Output, command, table

_no_passphrase = click.option("--no-passphrase", is_flag=True, help="Leave new key files unencrypted.")


@click.group()
def repo() -> None:
    """A repository of signed releases."""


@repo.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--fleet", default="edge", show_default=True, help="Names the MQTT topics of all its devices.")
@_no_passphrase
@command(examples=("edgeml repo init ./repo", "edgeml repo init ./repo --fleet farms --no-passphrase"))
def init(out: Output, folder: Path, fleet: str, *, no_passphrase: bool) -> None:
    """Make a repository in DIR with two new keys.

    keys/release.pem signs releases and trust: keep a copy, it may lie offline. keys/fleet.pem signs deployments.
    Both are encrypted with the passphrase in EDGEML_KEY_PASSPHRASE, or one that is asked for.
    """
    from edgeml import repository  # noqa: PLC0415 - kept out of --help
    from edgeml.repository import passphrase  # noqa: PLC0415

    repository.init(folder, fleet=fleet, secret="" if no_passphrase else passphrase.chosen())
    text = f"made {folder} for fleet {fleet}\nnext: edgeml publish BUNDLE --repo {folder}"
    out.result({"repo": str(folder), "fleet": fleet}, text)


@repo.command()
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(examples=("edgeml repo refresh --repo ./repo",))
def refresh(out: Output, folder: Path) -> None:
    """Sign freshness anew, so that devices go on installing; `edgeml fleet serve` does it by itself."""
    from edgeml import repository  # noqa: PLC0415 - kept out of --help

    refreshed = repository.refresh(folder)
    rows = [(it.repository, role, f"{expires:%Y-%m-%d}") for it in refreshed for role, expires in it.expires.items()]
    value = {"repositories": [it.to_dict() for it in refreshed]}
    out.result(value, table(("repository", "role", "expires"), rows))


@repo.command()
@click.argument("group", type=click.Choice(["release", "fleet"]))
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--keys", "files", type=click.IntRange(0), default=1, show_default=True, help="New key files to make.")
@click.option("--threshold", type=click.IntRange(1), default=1, show_default=True, help="How many keys must sign.")
@click.option("--signer", "signers", metavar="URI PUBLIC_PEM", type=(str, click.Path(path_type=Path)), multiple=True,
              help="A key that lies elsewhere: hsm:, gcpkms:, awskms:, azurekms:, file2:, ...")  # fmt: skip
@click.option("--keep", is_flag=True, help="The present keys stay, too.")
@_no_passphrase
@command(
    examples=(
        "edgeml repo rotate fleet --repo ./repo",
        "edgeml repo rotate release --repo ./repo --keys 3 --threshold 2",
        "edgeml repo rotate release --repo ./repo --keys 0 --signer 'hsm:2?label=release' release.pub",
    )
)
def rotate(out: Output, folder: Path, group: str, *, no_passphrase: bool, **new: Any) -> None:  # noqa: ANN401
    """Put new keys in the place of the release keys or the fleet keys; devices follow by themselves.

    Needs the release keys. Replaced key files are moved to keys/retired.
    """
    from edgeml import repository  # noqa: PLC0415 - kept out of --help
    from edgeml.repository import passphrase  # noqa: PLC0415

    secret = "" if no_passphrase or not new["files"] else passphrase.chosen()
    rotated = repository.rotate(folder, group, repository.NewKeys(secret=secret, **new))
    text = f"{len(rotated.keys)} {group} key(s), {rotated.threshold} must sign; back up {folder / 'keys'}"
    out.result(rotated.to_dict(), text)


@repo.command()
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(examples=("edgeml repo keys --repo ./repo",))
def keys(out: Output, folder: Path) -> None:
    """The keys that devices trust, how many of them must sign, and how many are here."""
    from edgeml.repository import rotation  # noqa: PLC0415 - kept out of --help

    found = rotation.groups(folder)
    rows = [(it.group, ", ".join(key[:8] for key in it.keys), it.threshold, it.here) for it in found]
    out.result({"groups": [it.to_dict() for it in found]}, table(("group", "keys", "must sign", "here"), rows))


@repo.command()
@click.argument("out_dir", metavar="USB_DIR", type=click.Path(path_type=Path))
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--site", metavar="S", required=True, help="The value of the devices' label `site`.")
@command(examples=("edgeml repo export --repo ./repo --site farm-7 /media/stick/farm-7",))
def export(out: Output, folder: Path, site: str, out_dir: Path) -> None:
    """Copy what the devices of one site want to USB_DIR, signed to last: an update where no network goes.

    `edgeml-agent install USB_DIR` installs from it. The same folder again is brought up to date.
    """
    from edgeml import repository  # noqa: PLC0415 - kept out of --help

    copy = repository.export_site(folder, site, out_dir)
    text = (
        f"wrote {', '.join(copy.releases) or 'no release'} for {len(copy.devices)} device(s) of {site} to {out_dir}:"
        f" {copy.chunks} chunks, {copy.size_bytes / 1e6:.1f} MB; devices take it until {copy.expires:%Y-%m-%d}\n"
        f"next: edgeml-agent install {out_dir} --config agent.toml, on each device"
    )
    out.result(copy.to_dict(), text)

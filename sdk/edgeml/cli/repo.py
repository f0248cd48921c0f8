"""`edgeml repo`: make a repository, renew signatures, withdraw releases, change keys, copy the part of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeml.cli import rollouts, staging
from edgeml.cli.fleet_options import database_options
from edgeml.cli.output import Output, command, size, table
from edgeml_core.errors import UsageError

_no_passphrase = click.option("--no-passphrase", is_flag=True, help="Leave new key files unencrypted.")


@click.group()
def repo() -> None:
    """A repository of signed releases."""


for _command in (staging.stage, staging.sign, staging.merge):
    repo.add_command(_command)


@repo.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--fleet", default="edge", show_default=True, help="Names the MQTT topics of all its devices.")
@_no_passphrase
@command(examples=("edgeml repo init ./repo", "edgeml repo init ./repo --fleet farms --no-passphrase"))
def init(out: Output, folder: Path, fleet: str, *, no_passphrase: bool) -> None:
    """Make a repository in DIR with two new keys and two certificate authorities.

    keys/release.pem signs releases and trust: keep a copy; it may lie offline. keys/fleet.pem signs deployments.
    keys/device-ca.pem and keys/broker-ca.pem issue certificates for clients of the broker, and for the broker.
    All are encrypted with the passphrase in EDGEML_KEY_PASSPHRASE, else with one that you are asked for.
    """
    from edgeml.repository import Repository, passphrase  # noqa: PLC0415 - kept out of --help

    Repository.init(folder, fleet=fleet, passphrase="" if no_passphrase else passphrase.choose())
    text = f"made {folder} for fleet {fleet}\nnext: edgeml publish BUNDLE --repo {folder}"
    out.result({"repo": str(folder), "fleet": fleet}, text)


@repo.command()
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(examples=("edgeml repo refresh --repo ./repo",))
def refresh(out: Output, folder: Path) -> None:
    """Renew the signatures that expire first, so that devices still accept updates.

    `edgeml fleet serve` does it by itself.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    refreshed = Repository.open(folder).refresh()
    rows = [(it.repository, role, f"{expires:%Y-%m-%d}") for it in refreshed for role, expires in it.expires.items()]
    value = {"repositories": [it.to_dict() for it in refreshed]}
    out.result(value, table(("repository", "role", "expires"), rows))


@repo.command()
@click.argument("release", metavar="NAME:VERSION")
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--and-older", is_flag=True, help="Also the versions of NAME that were published before VERSION.")
@click.option("--undo", is_flag=True, help="Let devices install it again.")
@command(
    examples=(
        "edgeml repo withdraw minilm:1 --repo ./repo",
        "edgeml repo withdraw minilm:1.4 --repo ./repo --and-older",
    )
)
def withdraw(out: Output, folder: Path, release: str, *, and_older: bool, undo: bool) -> None:
    """Sign that no device installs a release any more, not even when the fleet key is stolen.

    Needs the release key. Devices that serve the release keep it until you deploy another version.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    name, _, version = release.partition(":")
    if not version:
        raise UsageError("usage", f"{release!r} names no version", "write it as NAME:VERSION, such as minilm:1")
    found = Repository.open(folder).withdraw(name, version, and_older=and_older, undo=undo)
    done = "devices may install" if undo else "withdrew"
    versions = ", ".join(f"{name} {it}" for it in found.versions)
    out.result(found.to_dict(), f"{done} {versions}" if versions else "nothing to change")
    if found.deployments:
        out.note(f"warning: {', '.join(found.deployments)} still deploys a withdrawn release; deploy another version")


@repo.command()
@click.argument("group", type=click.Choice(["release", "fleet"]))
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--keys", "files", type=click.IntRange(0), default=1, show_default=True, help="New key files to make.")
@click.option(
    "--threshold", type=click.IntRange(1), default=1, show_default=True, help="The number of keys that must sign."
)
@click.option("--signer", "signers", metavar="URI PUBLIC_PEM", type=(str, click.Path(path_type=Path)), multiple=True,
              help="A key outside this folder: hsm:, gcpkms:, awskms:, azurekms:, file2:, ...")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the present keys, too.")
@_no_passphrase
@command(
    examples=(
        "edgeml repo rotate fleet --repo ./repo",
        "edgeml repo rotate release --repo ./repo --keys 3 --threshold 2",
        "edgeml repo rotate release --repo ./repo --keys 0 --signer 'hsm:2?label=release' release.pub",
    )
)
def rotate(out: Output, folder: Path, group: str, *, no_passphrase: bool, **new: Any) -> None:  # noqa: ANN401
    """Replace the release keys or the fleet keys; devices follow by themselves.

    Needs the release keys. Replaced key files are moved to keys/retired.
    """
    from edgeml.repository import NewKeys, Repository, passphrase  # noqa: PLC0415 - kept out of --help

    secret = "" if no_passphrase or not new["files"] else passphrase.choose()
    rotated = Repository.open(folder).rotate(group, NewKeys(secret=secret, **new))
    text = f"{len(rotated.keys)} {group} key(s), {rotated.threshold} must sign; back up {folder / 'keys'}"
    out.result(rotated.to_dict(), text)


@repo.command()
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(examples=("edgeml repo keys --repo ./repo",))
def keys(out: Output, folder: Path) -> None:
    """Print the keys that devices trust, how many must sign, and how many are in the folder."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    found = Repository.open(folder).keys()
    rows = [(it.group, ", ".join(key[:8] for key in it.keys), it.threshold, it.here) for it in found]
    out.result({"groups": [it.to_dict() for it in found]}, table(("group", "keys", "must sign", "here"), rows))


@repo.command()
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--keep", metavar="N", type=click.IntRange(min=1), help="Newest versions of each model; default: all.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; print what would be removed.")
@database_options
@command(examples=("edgeml repo prune --repo ./repo --dry-run", "edgeml repo prune --repo ./repo --keep 3"))
def prune(out: Output, folder: Path, keep: int | None, *, dry_run: bool, **database: Any) -> None:  # noqa: ANN401
    """Remove chunks of withdrawn releases, of older versions than the N to keep, and of bundles that were never signed.

    Releases that a deployment or a rollout needs keep their chunks. Publishing a bundle again restores its own.
    """
    from edgeml.repository import pruning  # noqa: PLC0415 - kept out of --help

    planned = rollouts.planned(folder, database)
    pruned = pruning.prune(folder, keep=keep, dry_run=dry_run, planned=planned)
    done = "would remove" if dry_run else "removed"
    releases = f"; without chunks then: {', '.join(pruned.releases)}" if pruned.releases else ""
    out.result(pruned.to_dict(), f"{done} {pruned.chunks} chunks, {size(pruned.size_bytes)}{releases}")


@repo.command()
@click.argument("out_dir", metavar="WEB_DIR", type=click.Path(path_type=Path))
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@command(examples=("edgeml repo mirror /srv/www/chunks --repo ./repo",))
def mirror(out: Output, folder: Path, out_dir: Path) -> None:
    """Write the chunks of all releases to WEB_DIR, for a web server or cache that devices with `[fetch] http` use.

    Repeat it after each `edgeml publish`. Chunks for a group are encrypted.
    """
    from edgeml.repository import offline  # noqa: PLC0415 - kept out of --help

    count = offline.mirror(folder, out_dir)
    out.result({"chunks": count, "folder": str(out_dir)}, f"{count} chunks in {out_dir}")


@repo.command()
@click.argument("out_dir", metavar="USB_DIR", type=click.Path(path_type=Path))
@click.option("--repo", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--site", metavar="S", required=True, help="The value of the devices' label `site`.")
@command(examples=("edgeml repo export --repo ./repo --site farm-7 /media/stick/farm-7",))
def export(out: Output, folder: Path, site: str, out_dir: Path) -> None:
    """Copy the releases for the devices of one site to USB_DIR, for an update without a network.

    The signatures of the copy are valid for months. `edgeml-agent install USB_DIR` installs from it. An earlier copy in
    the same folder is brought up to date.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    copy = Repository.open(folder).export_site(site, out_dir)
    text = (
        f"wrote {', '.join(copy.releases) or 'no release'} for {len(copy.devices)} device(s) of {site} to {out_dir}:"
        f" {copy.chunks} chunks, {copy.size_bytes / 1e6:.1f} MB; devices accept it until {copy.expires:%Y-%m-%d}\n"
        f"next: edgeml-agent install {out_dir} --config agent.toml, on each device"
    )
    out.result(copy.to_dict(), text)

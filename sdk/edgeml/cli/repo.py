"""`edgeml repo`: make a repository, keep its signatures fresh, copy a site's part of it."""

from __future__ import annotations

from pathlib import Path

import click

from edgeml.cli.output import Output, command, table


@click.group()
def repo() -> None:
    """A repository of signed releases."""


@repo.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--fleet", default="edge", show_default=True, help="Names the MQTT topics of all its devices.")
@command(examples=("edgeml repo init ./repo", "edgeml repo init ./repo --fleet farms"))
def init(out: Output, folder: Path, fleet: str) -> None:
    """Make a repository in DIR with two new keys.

    keys/release.pem signs releases and trust: keep a copy, it may lie offline. keys/fleet.pem signs deployments.
    Both are encrypted when EDGEML_KEY_PASSPHRASE is set.
    """
    from edgeml import repository  # noqa: PLC0415 - kept out of --help

    repository.init(folder, fleet=fleet)
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

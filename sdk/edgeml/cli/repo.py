"""`edgeml repo`: make a repository, keep its signatures fresh."""

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

"""`edgeml fleet selector`: selectors with names, for `--to @NAME`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeml.cli.fleet_options import repository_option
from edgeml.cli.output import Output, command, table


@click.group()
def selector() -> None:
    """Name selectors, to select by --to @NAME."""


@selector.command("set")
@click.argument("name")
@click.argument("text", metavar="SELECTOR")
@repository_option
@command(examples=("edgeml fleet selector set barns 'site in (farm-7,farm-8),!old' --repo ./repo",))
def set_(out: Output, name: str, text: str, repo: Path) -> None:
    """Save a selector under a name. Deployments that are signed already keep theirs."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    saved = Repository.open(repo).save_selector(name, text)
    out.result({"selectors": saved}, f"@{name} is {saved[name] or 'all devices'}")


@selector.command("list")
@repository_option
@command(examples=("edgeml fleet selector list --repo ./repo",))
def list_(out: Output, repo: Path) -> None:
    """Print the saved selectors."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    saved = Repository.open(repo).saved_selectors()
    out.result({"selectors": saved}, table(("name", "selector"), [(f"@{it}", saved[it] or "all") for it in saved]))


@selector.command()
@click.argument("name")
@repository_option
@command(examples=("edgeml fleet selector remove barns --repo ./repo",))
def remove(out: Output, name: str, repo: Path) -> None:
    """Remove a saved selector."""
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    out.result({"selectors": Repository.open(repo).save_selector(name, None)}, f"removed @{name}")

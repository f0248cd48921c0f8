"""`edgeml publish`: sign bundles as releases of a repository."""

from __future__ import annotations

from pathlib import Path

import click

from edgeml.cli.output import Output, command, size, table


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repo", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The repository.")
@click.option(
    "--encrypt-for", "group", metavar="GROUP", help="Only devices that were enrolled with --group GROUP can read it."
)
@command(
    examples=(
        "edgeml publish minilm-1-rpi4-onnx.edgeml --repo ./repo",
        "edgeml publish out/*.edgeml --repo ./repo --json",
        "edgeml publish secret-2-rpi4-onnx.edgeml --repo ./repo --encrypt-for clinic",
    )
)
def publish(out: Output, bundles: tuple[Path, ...], repo: Path, group: str | None) -> None:
    """Check each BUNDLE, sign it and add it to a repository; all or none.

    Measurements beside a bundle are signed with it.
    """
    from edgeml.repository import Repository  # noqa: PLC0415 - kept out of --help

    published = Repository.open(repo).publish(*bundles, group=group)
    rows = [
        (it.name, it.version, it.target, it.format, size(it.size_bytes), "added" if it.added else "unchanged")
        for it in published
    ]
    text = table(("name", "version", "target", "format", "size", ""), rows)
    out.result({"releases": [it.to_dict() for it in published]}, text)

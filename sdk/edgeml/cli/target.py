"""`edgeml target`: list, show, check and prepare the boards that models are exported for."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.output import Output, command, table
from edgeml_core.errors import UsageError


@click.group()
def target() -> None:
    """Boards: list, show, check, prepare."""


@target.command("list")
@command(examples=("edgeml target list", "edgeml target list --json"))
def list_targets(out: Output) -> None:
    """List the boards that models can be exported for."""
    from edgeml import targets  # noqa: PLC0415 - kept out of --help

    profiles = targets.all()
    rows = [(it.name, it.title) for it in profiles]
    out.result({"targets": [msgspec.to_builtins(it) for it in profiles]}, table(("target", "board"), rows))


@target.command()
@click.argument("name")
@command(examples=("edgeml target show rpi4", "edgeml target show ./my-board.toml --json"))
def show(out: Output, name: str) -> None:
    """Show every number of target NAME, with its source."""
    from edgeml import targets  # noqa: PLC0415 - kept out of --help

    profile = targets.load(name)
    value = msgspec.to_builtins(profile)
    out.result(value, msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


@target.command()
@click.argument("file", type=click.Path(path_type=Path))
@command(examples=("edgeml target check my-board.toml",))
def check(out: Output, file: Path) -> None:
    """Print every problem of a target profile."""
    from edgeml_core import profile as profiles  # noqa: PLC0415 - kept out of --help

    try:
        profile = profiles.parse(file.read_bytes())
    except OSError as error:
        raise UsageError("usage", f"{file} can't be read", "name a TOML file; see docs/targets.md") from error
    out.result({"target": profile.name, "ok": True}, f"{profile.name}: ok")


@target.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Make it again, even where it is complete.")
@command(extra="agent", examples=("edgeml target prepare rpi4",))
def prepare(out: Output, name: str, *, force: bool) -> None:
    """Install the emulation of target NAME's CPU, once: for `verify --on emulated` and every export.

    A board of another architecture needs that architecture's Python and runtimes, fetched from Debian and the package
    index: some 320 MB in $EDGEML_EMULATION_DIR, or else in edgeml/emulation in your cache folder. All boards of an
    architecture share them. Debian packages come from the mirrors of this machine's apt, or from $EDGEML_DEBIAN_MIRROR.
    """
    from edgeml import targets  # noqa: PLC0415 - kept out of --help
    from edgeml.verify.emulation.prepare import prepare as make  # noqa: PLC0415 - kept out of --help

    profile = targets.load(name)
    folder = make(profile, force=force, on_step=out.note)
    out.result(
        {"target": name, "ready": True, "folder": str(folder) if folder else None},
        f"{profile.cpu.core} can be emulated here",
    )

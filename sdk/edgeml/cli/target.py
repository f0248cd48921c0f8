"""`edgeml target`: list, show, check and prepare the boards that models are exported for."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.output import Output, command, size, table
from edgeml_core.errors import UsageError
from edgeml_core.profile import Profile


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
@click.option(
    "--model", type=click.Path(path_type=Path), help="A language model's folder or .gguf file: predict it instead."
)
@command(
    examples=(
        "edgeml target show rpi4",
        "edgeml target show ./my-board.toml --json",
        "edgeml target show rpi4 --model ./smollm2",
    )
)
def show(out: Output, name: str, model: Path | None) -> None:
    """Show every number of target NAME, with its source.

    --model predicts from a language model's sizes which forms of its weights fit. It also gives the tokens a second
    that they write at most. Both are estimates: `edgeml bench BUNDLE --on device:ID` measures.
    """
    from edgeml import targets  # noqa: PLC0415 - kept out of --help

    profile = targets.load(name)
    if model is not None:
        _predict(out, model, profile)
        return
    value = msgspec.to_builtins(profile)
    out.result(value, msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _predict(out: Output, model: Path, profile: Profile) -> None:
    from edgeml.check import feasible  # noqa: PLC0415 - kept out of --help

    found = feasible.predict(model, profile)
    rows = [
        (
            it.weights,
            size(it.size_bytes),
            size(it.ram_bytes),
            "yes" if it.fits else "no",
            "no published run" if it.tokens_per_s is None else f"at most {it.tokens_per_s:g}",
        )
        for it in found
    ]
    head = ("weights", "size", "RAM", "fits", "tokens/s")
    given = f"estimated; {profile.name} gives a model {size(profile.memory.model_bytes)} of RAM"
    value = {"target": profile.name, "how": "estimated", "predictions": [msgspec.to_builtins(it) for it in found]}
    out.result(value, f"{table(head, rows)}\n{given}")


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

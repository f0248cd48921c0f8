"""`edgeml repo stage`, `sign` and `merge`: publish with a release key that never leaves its machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeml.cli.output import Output, command
from edgeml_core.errors import UsageError

if TYPE_CHECKING:
    from edgeml.repository.staging import Change

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", metavar="STICK_DIR", type=_PATH)
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1, type=_PATH)
@click.option("--repo", metavar="DIR", type=_PATH, required=True, help="The repository.")
@click.option("--encrypt-for", "group", metavar="GROUP", help="As for `edgeml publish`.")
@click.option("--withdraw", metavar="NAME:VERSION", default="", help="Also withdraw this release.")
@command(
    examples=(
        "edgeml repo stage /media/stick/change out/*.edgeml --repo ./repo",
        "edgeml repo stage /media/stick/change --withdraw minilm:1 --repo ./repo",
    )
)
def stage(
    out: Output, folder: Path, bundles: tuple[Path, ...], repo: Path, *, group: str | None, withdraw: str
) -> None:
    """Write the release of BUNDLEs to STICK_DIR, to be signed on the machine that has the release key.

    Nothing is released yet. Without bundles and --withdraw only the signature is renewed.
    """
    from edgeml.repository import staging  # noqa: PLC0415 - kept out of --help

    change, _ = staging.stage(repo, folder, bundles, group=group, withdraw=withdraw)
    out.result(change.to_dict(), f"{_words(change)}\nnext: edgeml repo sign {folder} --keys DIR, where the key is")


@click.command()
@click.argument("folder", metavar="STICK_DIR", type=_PATH)
@click.option("--keys", "keys_folder", metavar="DIR", type=_PATH, required=True, help="The folder with release.pem.")
@click.option("--yes", is_flag=True, help="Sign without a question.")
@click.option("--replace", is_flag=True, help="Sign although another change of this version was signed here.")
@command(examples=("edgeml repo sign /media/stick/change --keys ./offline",))
def sign(out: Output, folder: Path, keys_folder: Path, *, yes: bool, replace: bool) -> None:
    """Print the staged change in words, and sign it after your consent.

    Compare each manifest's digest with that of the bundle that you trust: `edgeml inspect BUNDLE`.
    """
    from edgeml.repository import staging  # noqa: PLC0415 - kept out of --help

    out.note(_words(staging.Staged(folder).describe()))
    if not yes and not click.confirm("Sign this?", err=True):
        raise UsageError("usage", "nothing was signed", "give --yes, or answer the question with y")
    change = staging.sign(folder, keys_folder, replace=replace)
    missing = max(0, change.needed - change.signatures)
    after = f"{missing} more signature(s) needed" if missing else f"next: edgeml repo merge {folder} --repo DIR"
    out.result(change.to_dict(), f"signed version {change.version}; {after}")


@click.command()
@click.argument("folder", metavar="STICK_DIR", type=_PATH)
@click.option("--repo", metavar="DIR", type=_PATH, required=True, help="The repository.")
@command(examples=("edgeml repo merge /media/stick/change --repo ./repo",))
def merge(out: Output, folder: Path, repo: Path) -> None:
    """Verify the signed change in STICK_DIR and add it to the repository. Needs the fleet key."""
    from edgeml.repository import staging  # noqa: PLC0415 - kept out of --help

    change = staging.merge(repo, folder)
    out.result(change.to_dict(), f"merged version {change.version}\n{_words(change)}")


def _words(change: Change) -> str:
    head = f"change to version {change.version} of the releases, signed by {change.signatures} of {change.needed}:"
    return "\n".join((head, *(f"  {line}" for line in change.lines)))

"""`edgeml fleet audit`: list, verify and export the audit log of a repository."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.fleet_options import FILE, repository_option
from edgeml.cli.output import Output, command, table
from edgeml_core.errors import UsageError


@click.group()
def audit() -> None:
    """See who did what, and verify that the log is whole."""


@audit.command("list")
@repository_option
@click.option("--last", metavar="N", type=click.IntRange(min=1), default=50, show_default=True, help="Newest entries.")
@command(examples=("edgeml fleet audit list --repo ./repo", "edgeml fleet audit list --repo ./repo --last 500 --json"))
def list_entries(out: Output, repo: Path, last: int) -> None:
    """Print the newest acts of operators and of the rollouts' controller, the oldest of them first."""
    from edgeml.repository import opened  # noqa: PLC0415 - kept out of --help

    entries = opened(repo).audit.newest(last)[::-1]
    rows = [
        (it.number, it.time[:19], it.actor, it.act, it.subject, ", ".join(f"{k} {v}" for k, v in it.details.items()))
        for it in entries
    ]
    value = {"entries": [msgspec.to_builtins(it) for it in entries]}
    out.result(value, table(("number", "time (UTC)", "actor", "act", "subject", "details"), rows))


@audit.command()
@repository_option
@click.option("--head", metavar="NUMBER:SHA256", help="A head that was printed earlier, which the log must have.")
@command(
    examples=(
        "edgeml fleet audit verify --repo ./repo",
        "edgeml fleet audit verify --repo ./repo --head 12:9b1c...",
    )
)
def verify(out: Output, repo: Path, head: str | None) -> None:
    """Verify that no entry was altered, removed or moved, and print the head to keep elsewhere.

    The signed fleet document has the head of its time. A log that lost entries since then is found by --head alone.
    """
    from edgeml.repository import opened  # noqa: PLC0415 - kept out of --help

    found, anchor = opened(repo).check_audit(head or "")
    value = {"head": str(found), "entries": found.number, "anchored": anchor.number}
    text = f"entries verified: {found.number}, by a signed or given head: {anchor.number}\nhead: {found}"
    if found.number > anchor.number:
        text += "\nkeep this head for --head: the next deployment signs it, until then nothing shows a lost last entry"
    out.result(value, text)


@audit.command()
@repository_option
@click.option("-o", "--output", metavar="FILE", type=FILE, required=True, help="A new file.")
@command(examples=("edgeml fleet audit export --repo ./repo -o audit.jsonl",))
def export(out: Output, repo: Path, output: Path) -> None:
    """Copy the log, verified, as JSON lines: an entry each, as it was hashed."""
    from edgeml.repository import opened  # noqa: PLC0415 - kept out of --help

    repository = opened(repo)
    head, _ = repository.check_audit()
    try:
        with output.open("xb") as file:
            file.writelines(line + b"\n" for line in repository.audit.lines())
    except OSError as error:
        raise UsageError("usage", f"{output} can't be written: {error}", "name a new file") from error
    out.result({"head": str(head), "entries": head.number, "file": str(output)}, f"{head.number} entries in {output}")

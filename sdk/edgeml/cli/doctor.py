"""`edgeml doctor`: what is missing or wrong here."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.output import Output, command, table
from edgeml_core.errors import DeviceError


@click.command()
@command(extra="agent", examples=("edgeml doctor", "edgeml doctor --json"))
def doctor(out: Output) -> None:
    """Say what is missing or wrong on this machine, and the remedy."""
    from edgeml import doctor as doctors  # noqa: PLC0415 - kept out of --help

    checks = doctors.run(Path())
    rows = [(check.status, check.name, check.detail, check.remedy) for check in checks]
    out.result({"checks": msgspec.to_builtins(checks)}, table(("status", "check", "found", "remedy"), rows))
    if failed := [check.name for check in checks if check.status == "failed"]:
        raise DeviceError("runtime-missing", f"not well: {', '.join(failed)}", "see the remedies above")

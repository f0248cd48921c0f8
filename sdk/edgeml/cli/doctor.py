"""`edgeml doctor`: report every fault of this installation, with its remedy."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeml.cli.output import Output, command, table
from edgeml_core.errors import DeviceError


@click.command()
@command(extra="agent", examples=("edgeml doctor", "edgeml doctor --json"))
def doctor(out: Output) -> None:
    """Report everything that is missing or wrong on this machine, with the remedy."""
    from edgeml import doctor as doctors  # noqa: PLC0415 - kept out of --help

    checks = doctors.run(Path())
    rows = [(check.status, check.name, check.detail, check.remedy) for check in checks]
    out.result({"checks": msgspec.to_builtins(checks)}, table(("status", "check", "found", "remedy"), rows))
    if failed := [check.name for check in checks if check.status == "failed"]:
        raise DeviceError("runtime-missing", f"checks failed: {', '.join(failed)}", "follow the remedies above")

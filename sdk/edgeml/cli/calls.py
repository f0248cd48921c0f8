"""`edgeml fleet call` and `edgeml fleet logs`: ask one device to do something, and read its log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from edgeml.cli.device_options import seconds_option
from edgeml.cli.fleet_options import broker_options, database_options, repository_option
from edgeml.cli.output import Output, command, printable, table
from edgeml_core.calls import LINES, LINES_MAX, Kind, Reply
from edgeml_core.errors import DeviceError


@click.command()
@click.argument("device")
@click.argument("kind", type=click.Choice(("restart", "doctor", "verify", "bench")))
@click.argument("model", required=False)
@repository_option
@database_options
@broker_options
@seconds_option
@command(
    extra="fleet",
    examples=(
        "edgeml fleet call barn-1 doctor --repo ./repo --broker mqtts://operator@broker.example",
        "edgeml fleet call barn-1 bench minilm --repo ./repo --broker mqtts://operator@broker.example --json",
        "edgeml fleet call barn-1 restart --repo ./repo --broker mqtts://operator@broker.example",
    ),
)
def call(out: Output, repo: Path, device: str, kind: Kind, **options: Any) -> None:  # noqa: ANN401 - click's
    """Call DEVICE to restart its agent, check itself, or verify or benchmark MODEL, which it has.

    MODEL may be left out where the device has one. The audit log has the call.
    """
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    asked = {name: options.pop(name) for name in ("model", "seconds")}
    reply = Fleet(repo, **options).call(device, kind, **asked)
    fields = {key: value for key, value in msgspec.to_builtins(reply).items() if key != "id"}
    out.result({"device": device, "kind": kind, **fields}, "\n".join(_lines(device, kind, reply)))
    if failed := [check.name for check in reply.checks if check.status == "failed"]:
        hint = "follow the remedies above"
        raise DeviceError("runtime-missing", f"checks failed on {device}: {', '.join(failed)}", hint)


@click.command()
@click.argument("device")
@repository_option
@database_options
@broker_options
@click.option("--lines", type=click.IntRange(1, LINES_MAX), default=LINES, show_default=True, help="The newest ones.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet logs barn-1 --repo ./repo --broker mqtts://operator@broker.example",
        "edgeml fleet logs barn-1 --repo ./repo --broker mqtts://operator@broker.example --lines 500",
    ),
)
def logs(out: Output, repo: Path, device: str, lines: int, **options: Any) -> None:  # noqa: ANN401 - click's
    """Print the newest log lines of DEVICE's agent, since its start. It masks secrets; the audit log has the call."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    found = Fleet(repo, **options).logs(device, lines=lines)
    shown = "\n".join(printable(it) for line in found for it in line.split("\n"))
    out.result({"device": device, "log": found}, shown)


def _lines(device: str, kind: Kind, reply: Reply) -> Iterator[str]:
    if kind == "restart":
        yield f"{device} restarts its agent; the restarted one reports again"
    elif kind == "doctor":
        rows = [(check.status, check.name, check.detail, check.remedy) for check in reply.checks]
        yield table(("status", "check", "found", "remedy"), rows)
    elif reply.reproduced is not None:
        cosine, distance = reply.reproduced.min_cosine, reply.reproduced.max_abs
        yield f"reproduced on {reply.cpu}: cosine {cosine:.6f}, largest difference {distance:.2e}"
    elif reply.benchmark is not None:
        latency = reply.benchmark.latency
        yield f"latency p50/p90/p99: {latency.p50_ms:.3f} / {latency.p90_ms:.3f} / {latency.p99_ms:.3f} ms"
        yield f"measured on {reply.cpu}, {reply.threads} thread(s), {latency.runs} runs"
        yield from (f"the device was not quiet: {doubt}" for doubt in reply.benchmark.host.doubts)

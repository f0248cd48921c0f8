"""`edgeml bench`: measure how fast a bundle is, here or on a board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeml.bundles import Bundle
from edgeml.cli import device_options
from edgeml.cli.output import Output, command, size, table

if TYPE_CHECKING:
    from edgeml.bench import Benchmark


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="local|ssh://HOST|device:ID",
    help="This machine; a machine with edgeml-deploy[agent], reached by ssh; or a device of a fleet that holds the "
    "bundle. Never an emulated CPU: its time says nothing about the board.",
)
@device_options.with_connection
@click.option("--threads", type=click.IntRange(min=1), help="Instead of the bundle's own number.")
@click.option(
    "--case", type=click.IntRange(min=1), default=1, show_default=True, help="The golden case whose input is run."
)
@device_options.seconds_option
@command(
    extra="agent",
    examples=(
        "edgeml bench out/minilm-1-x86-vnni-tflite.edgeml",
        "edgeml bench out/minilm-1-x86-vnni-onnx.edgeml --threads 1 --case 3 --seconds 10",
        "edgeml bench out/minilm-1-rpi4-onnx.edgeml --on ssh://pi@garden/opt/edgeml/bin/python3",
        "edgeml bench out/minilm-1-rpi4-onnx.edgeml --on device:barn-1 --broker mqtts://broker.example",
        "edgeml bench BUNDLE --json | jq .latency.p99_ms",
    ),
)
def bench(
    out: Output,
    bundle: Path,
    *,
    on: str,
    threads: int | None,
    case: int,
    seconds: float,
    **connection: Any,  # noqa: ANN401 - see device_options
) -> None:
    """Time BUNDLE at batch 1, in a process of its own, and report whether the machine was quiet.

    \b
    --json answers one object:
      manifest_sha256, on, cpu, engine, engine_version, threads, case
      input_shapes          {input: [lengths]}
      latency               {p50_ms, p90_ms, p99_ms, runs, warmup}
      load_ms, first_inference_ms, throughput_per_s, peak_rss_bytes
      energy                {joules_per_inference: number or null, note: source or reason}
      host                  {quiet, other_cores, steal, drift, spread, doubts: [sentence]}
    """  # noqa: D301 - click's mark against rewrapping
    from edgeml import bench as benching  # noqa: PLC0415 - kept out of --help

    out.note(f"timing {bundle.name} for {seconds:g} s on {on}")
    fleet = device_options.connection(on, **connection)
    found = Bundle.open(bundle).bench(on, case=case, threads=threads, seconds=seconds, fleet=fleet)
    out.result(benching.to_dict(found), table((bundle.name, found.manifest_sha256[:12]), _rows(found)))
    for doubt in found.result.host.doubts:
        out.note(f"the host was not quiet: {doubt}")


def _rows(found: Benchmark) -> Iterator[tuple[str, str]]:
    result, latency = found.result, found.result.latency
    yield "latency p50/p90/p99", f"{latency.p50_ms:.3f} / {latency.p90_ms:.3f} / {latency.p99_ms:.3f} ms"
    yield "runs", f"{latency.runs} after {latency.warmup} warm-up runs"
    yield "spread, drift", f"{result.host.spread:.1%} between quartiles, {result.host.drift:+.1%} between halves"
    yield "throughput", f"{result.throughput_per_s:.1f} inferences/s, one after another"
    yield "load, first answer", f"{result.load_ms:.0f} ms, {result.first_inference_ms:.1f} ms"
    yield "peak memory", size(result.peak_rss_bytes)
    yield "energy", result.energy.summary
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.input_shapes.items())
    yield "input", f"golden case {found.case}: {shapes}"
    yield "measured on", f"{found.on}: {found.cpu}, {found.threads} thread(s), {found.engine} {found.engine_version}"
    yield "host", "quiet" if result.host.quiet else "NOT quiet: run it again when the machine is idle"

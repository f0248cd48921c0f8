"""`edgeml inspect`: print the manifest of a bundle, its card and its measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from edgeml.bundles import Bundle
from edgeml.cli import card_tables
from edgeml.cli.output import Output, command, size, table
from edgeml_core.card import Measurements
from edgeml_core.manifest import Manifest, TensorSpec

_NOT_MEASURED = "not measured: the .measured.json file is not beside the bundle"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Also write it as one page with plots to this file.")
@command(
    examples=(
        "edgeml inspect out/minilm-1-rpi4-onnx.edgeml",
        "edgeml inspect BUNDLE --html minilm.html",
        "edgeml inspect BUNDLE --json",
    )
)
def inspect(out: Output, bundle: Path, html: Path | None) -> None:
    """Print BUNDLE's manifest and result card. The page of --html needs no network and no script."""
    found = Bundle.open(bundle)
    if html:
        from edgeml.report import page  # noqa: PLC0415 - kept out of --help

        page.write_to(html, found)
        out.note(f"wrote {html}")
    value = {
        "manifest": msgspec.to_builtins(found.manifest),
        "manifest_sha256": found.manifest_sha256,
        "size_bytes": found.size_bytes,
        "measurements": msgspec.to_builtins(found.measurements),
    }
    rows = [("size of the bundle", size(found.size_bytes)), *_manifest_rows(found.manifest)]
    rows += _card_rows(found.manifest) + list(_measured_rows(found.measurements))
    parts = [table((found.manifest.stem, found.manifest_sha256[:12]), rows), *card_tables.tables(found)]
    out.result(value, "\n\n".join(parts))


def _manifest_rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    needs = manifest.runtime
    yield "task", manifest.task
    yield "runs on", " ".join((manifest.cpu.arch, *manifest.cpu.features))
    yield "runtime", f"{needs.engine} >= {needs.min_version}, {needs.threads} thread(s)"
    yield "needs", f"{size(manifest.needs.ram_bytes)} RAM (estimated), {size(manifest.needs.disk_bytes)} disk"
    yield "inputs", ", ".join(map(_tensor, manifest.inputs))
    yield "outputs", ", ".join(map(_tensor, manifest.outputs))
    yield "golden cases", f"{manifest.golden.cases}, cosine >= {manifest.golden.min_cosine}"


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}{list(spec.shape)}"


def _card_rows(manifest: Manifest) -> list[tuple[str, str]]:
    card, accuracy = manifest.card, manifest.card.accuracy
    parity = card.parity
    rows = [
        ("recipe", card.recipe),
        ("size of the model", f"{size(card.size_bytes)}, {card.size_summary} ({size(card.baseline_size_bytes)})"),
        ("parity", f"cosine {parity.cosine:.4f} to {parity.against} over {parity.rows} rows"),
    ]
    if card.oracle:
        rows.append(("oracle", card.oracle.summary))
    if card.greedy:
        rows.append(("same text as fp32", card.greedy.summary))
    if card.kernels:
        rows.append(("kernels", card.kernels.summary))
    if accuracy:
        rows.append((accuracy.metric, accuracy.summary))
    else:
        rows.append(("accuracy", card.accuracy_note or "not measured"))
    if card.choice:
        rows.append(("choice of format", card.choice))
    rows.append(("drift baseline", card.baseline_summary))
    return rows + [("warning", warning) for warning in card.warnings]


def _measured_rows(measured: Measurements | None) -> Iterator[tuple[str, str]]:
    if measured is None:
        yield "speed", _NOT_MEASURED
        return
    fp32, int8 = measured.fp32, measured.int8
    yield "latency p50/p90/p99", f"{int8.p50_ms:.2f} / {int8.p90_ms:.2f} / {int8.p99_ms:.2f} ms, {int8.runs} runs"
    yield "fp32 p50/p90/p99", f"{fp32.p50_ms:.2f} / {fp32.p90_ms:.2f} / {fp32.p99_ms:.2f} ms in the same run"
    yield "speed", f"{measured.speedup:.2f} x fp32"
    if measured.prefill:
        yield "writes", measured.writes_summary
        yield "reads", measured.prefill.summary
    yield "load, first answer", f"{measured.load_ms:.0f} ms, {measured.first_inference_ms:.1f} ms"
    yield "peak memory", size(measured.peak_rss_bytes)
    yield "throughput", f"{measured.throughput_per_s:.1f} inferences/s, one after another"
    yield "energy", measured.energy.summary
    yield "measured on", f"{measured.cpu}, {measured.threads} thread(s)"
    yield "host", "; ".join(measured.doubts) or "quiet"

"""`edgeml export`: a model to signed-ready bundles for the boards named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from edgeml.cli import gate_table
from edgeml.cli.output import Output, Share, Size, command, size, table
from edgeml.pipeline.request import MAX_DROP_DEFAULT, VERSION_DEFAULT, Exported, ExportRequest
from edgeml.quantize.recipes import Quantize
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Format, Task


@click.command()
@click.argument("model")
@click.option("--target", multiple=True, required=True, help="A board; may be given several times.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["auto", *get_args(Format)]),
    help="Default: auto, for each target the one that wins.",
)
@click.option("--task", type=click.Choice(get_args(Task)), help="Default: as the model says.")
@click.option("--quantize", type=click.Choice(get_args(Quantize)), default="auto", show_default=True)
@click.option("--recipe", help="Try this one recipe only, such as dynamic-s8.")
@click.option("--calibrate", type=click.Path(path_type=Path), help="JSON lines to calibrate static int8 on.")
@click.option("--evaluate", type=click.Path(path_type=Path), help="JSON lines to measure accuracy on.")
@click.option("--max-drop", type=Share(), default=MAX_DROP_DEFAULT, show_default="1%", help="Accuracy int8 may lose.")
@click.option("--max-latency", "max_latency_ms", type=float, metavar="MS", help="Median accepted, measured here.")
@click.option("--max-size", "max_size_bytes", type=Size(), help="Of the model's files, such as 30MB.")
@click.option("--max-ram", "max_ram_bytes", type=Size(), help="As estimated; the target's own bound holds too.")
@click.option("--name", help="The model's name; default: from MODEL.")
@click.option("--version", default=VERSION_DEFAULT, show_default=True, help="The release's version.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the bundles.")
@command(
    extra="export",
    examples=(
        "edgeml export ./minilm --target rpi4 -o out",
        "edgeml export ./minilm --target rpi4 --target x86-gateway --format onnx --format tflite -o out --json",
        "edgeml export train.py:digits --target rpi4 --calibrate cal.jsonl --evaluate test.jsonl -o out",
    ),
)
def export(out: Output, **options: Any) -> None:  # noqa: ANN401 - click's options are the request's fields
    """Export MODEL, quantize it for each target, check it and pack one bundle per target and format asked for.

    MODEL is a Hugging Face folder, file.onnx, file.pt2, or path/file.py:function that returns (torch.nn.Module, example
    inputs) or a fitted scikit-learn pipeline with example rows.

    Rows of data files are {"text": ...}, {"image": path} or {"inputs": {name: nested list}}; with "label" to evaluate,
    for a detector with "boxes": [{"label": ..., "box": [xmin, ymin, xmax, ymax]}].

    Where nothing passes for a target, a table says why and the exit code is 1; bundles for the others are written.

    A language model's rows are whole texts, {"text": ...} without a label: it is judged by its perplexity on them, and
    --max-drop is the share by which that may rise (1%: from 20 to 20.2).
    """
    formats = [it for it in options.pop("formats") if it != "auto"]
    request = ExportRequest(targets=options.pop("target"), formats=formats, **options)
    out.note("loading torch and the converters")
    from edgeml.pipeline.export import export as export_model  # noqa: PLC0415 - imports torch

    try:
        _show(out, export_model(request, CliProgress(out)))
    except GateFailed as error:
        if passed := gate_table.tell(out, error):
            _show(out, passed)
        raise


class CliProgress:
    """The export's progress, told to the terminal or as JSON lines."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def stage(self, name: str) -> None:
        """A step begins."""
        self._out.event("stage", f"  {name}", stage=name)

    def done(self, exported: Exported) -> None:
        """A bundle was written."""
        self._out.event("bundle", f"wrote {exported.path}", path=str(exported.path))


def _show(out: Output, exported: Sequence[Exported]) -> None:
    out.result({"bundles": [it.to_dict() for it in exported]}, _summary(exported))


def _summary(exported: Sequence[Exported]) -> str:
    rows = []
    for it in exported:
        card, measured = it.manifest.card, it.measurements
        accuracy = "not measured"
        if card.accuracy:
            unit = "" if card.accuracy.is_fraction else f"{card.accuracy.metric} "
            accuracy = f"{unit}{card.accuracy.fp32:.3f} -> {card.accuracy.int8:.3f}"
        share = card.size_bytes / card.baseline_size_bytes
        speed = f"{measured.speedup:.2f} x fp32"
        rows.append((it.path.name, card.recipe, f"{size(card.size_bytes)} ({share:.2f} x)", speed,
                     f"{card.parity.cosine:.4f}", accuracy, _target_cpu(it)))  # fmt: skip
    text = table(("bundle", "recipe", "size", "speed here", "cosine", "accuracy", "target's CPU"), rows)
    cpu = exported[0].measurements.cpu if exported else ""
    return f"{text}\nspeed measured on {cpu}; nothing was run on the target itself"


def _target_cpu(exported: Exported) -> str:
    """How the bundle was verified on the target's kind of CPU."""
    return ", ".join(f"{it.cpu}: {it.how}" for it in exported.manifest.card.verified) or "this machine's"

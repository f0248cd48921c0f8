"""`edgeml export`: export a model as bundles for the boards named."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import click

from edgeml.bundles import Bundle
from edgeml.cli import gate_table
from edgeml.cli.output import Fraction, Output, Size, command, size, table
from edgeml.cli.progress import CliProgress
from edgeml.pipeline.request import EVALUATE_ROWS_DEFAULT, MAX_DROP_DEFAULT, VERSION_DEFAULT
from edgeml.quantize.recipes import Prefer, Quantize
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Format, Task
from edgeml_core.processing import AudioInput, ImageInput, PromptInput, QuestionInput, TextInput

#: An input to try a model with, by its preprocessing.
_INPUTS: Final[Mapping[type, str]] = {
    TextInput: 'text="a cow in a field"',
    QuestionInput: 'question="Where is the cow?" --input context="The cow is in a field."',
    PromptInput: 'prompt="The cow is"',
    ImageInput: "image=picture.jpg",
    AudioInput: "audio=sound.wav",
}


@click.command()
@click.argument("model")
@click.option("--target", multiple=True, required=True, help="A board; may be given several times.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["auto", *get_args(Format)]),
    help="Default: auto, the best format for each target.",
)
@click.option("--task", type=click.Choice(get_args(Task)), help="Default: the task that the model declares.")
@click.option("--quantize", type=click.Choice(get_args(Quantize)), default="auto", show_default=True)
@click.option("--recipe", help="Try this one recipe only, such as dynamic-s8.")
@click.option("--prefer", type=click.Choice(get_args(Prefer)), help="Of a language model; default: decode.")
@click.option("--calibrate", type=click.Path(path_type=Path), help="Rows to calibrate static int8 on.")
@click.option("--evaluate", type=click.Path(path_type=Path), help="Labelled rows to measure accuracy on.")
@click.option(
    "--evaluate-rows",
    type=int,
    default=EVALUATE_ROWS_DEFAULT,
    show_default=True,
    help="Of more rows, this many are drawn at random.",
)
@click.option(
    "--max-drop", type=Fraction(), default=MAX_DROP_DEFAULT, show_default="1%", help="Accuracy that int8 may lose."
)
@click.option("--max-latency", "max_latency_ms", type=float, metavar="MS", help="Median accepted, measured here.")
@click.option("--max-size", "max_size_bytes", type=Size(), help="Of the model's files, such as 30MB.")
@click.option("--max-ram", "max_ram_bytes", type=Size(), help="As estimated; the target's own bound holds too.")
@click.option("--name", help="The model's name; default: from MODEL.")
@click.option("--version", default=VERSION_DEFAULT, show_default=True, help="The release's version.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the bundles.")
@click.option("--overwrite", is_flag=True, help="Replace other bundles of the same name and version there.")
@command(
    extra="export",
    examples=(
        "edgeml export ./minilm --target rpi4 -o out",
        "edgeml export ./minilm --target rpi4 --target x86-gateway --format onnx --format tflite -o out --json",
        "edgeml export SmolLM2-135M-Instruct-Q4_0.gguf --target rpi5 -o out",
        "edgeml export train.py:digits --target rpi4 --calibrate cal.jsonl --evaluate test.jsonl -o out",
    ),
)
def export(out: Output, **options: Any) -> None:  # noqa: ANN401 - click's options are those of edgeml.export
    """Export MODEL, quantize it for each target, check it and pack one bundle per target and format requested.

    MODEL is a folder of Hugging Face, PEFT or timm, file.onnx, .pt2, .keras or .gguf, or path/file.py:function. The
    function returns (torch.nn.Module, example inputs) or a fitted scikit-learn pipeline with example rows.

    Data files are JSON lines, a JSON array, or CSV whose first line names the fields. By task a row is {"text": ...},
    {"question": ..., "context": ...}, {"image": path}, {"audio": path} or {"inputs": {name: nested list}};
    with "label" to evaluate, for a detector with "boxes": [{"label": ..., "box": [xmin, ymin, xmax, ymax]}].

    A folder's own library, such as transformers, answers hard items from the folder itself; a bundle that would answer
    otherwise isn't written. $EDGEML_ORACLE_PYTHON names the Python of another environment with edgeml-deploy and that
    library.

    When no candidate passes for a target, a table gives the reasons and the exit code is 1. Bundles for the other
    targets are written.

    For a language model each row is a whole text, {"text": ...} without a label. The model is judged by its perplexity,
    and --max-drop is the fraction by which that may rise (1%: from 20 to 20.2). Behind the first half of each row 95 %
    of its tokens must be those of fp32, too. --prefer decode tries first what writes fastest, --prefer prefill what
    reads long prompts fastest.
    """
    from edgeml.pipeline.library import export as export_model  # noqa: PLC0415 - kept out of --help

    options["formats"] = [it for it in options["formats"] if it != "auto"]
    rows = options["evaluate"]
    out.note("loading torch and the converters")
    try:
        with CliProgress(out) as progress:
            bundles = export_model(options.pop("model"), options.pop("target"), progress=progress, **options)
        _print(out, bundles, rows)
    except GateFailed as error:
        if passed := gate_table.report(out, error):
            _print(out, [Bundle.open(it.path) for it in passed], rows)
        raise


def _print(out: Output, bundles: Sequence[Bundle], rows: Path | None) -> None:
    out.result({"bundles": [it.to_dict() for it in bundles]}, _summary(bundles))
    if not out.as_json:
        out.note("\n".join(("next:", *(f"  {line}" for line in _next(bundles, rows)))))


def _summary(bundles: Sequence[Bundle]) -> str:
    headers = ("bundle", "recipe", "size", "speed here", "cosine", "accuracy", "target's CPU")
    cpus = {it.measurements.cpu for it in bundles if it.measurements}
    choices = (f"{it.path.name}: {it.card.choice}" for it in bundles if it.card.choice)
    kernels = (f"{it.path.name}: {it.card.kernels.summary}" for it in bundles if it.card.kernels)
    writes = (f"{it.path.name}: writes {speed}" for it in bundles if (speed := _writes(it)))
    measured = f"speed measured on {', '.join(cpus)}; nothing was run on the target itself"
    return "\n".join((table(headers, map(_row, bundles)), *choices, *kernels, *writes, measured, *_warnings(bundles)))


def _writes(bundle: Bundle) -> str:
    """Return the speed of a language model's text; empty for another model."""
    measured = bundle.measurements
    return measured.writes_summary if measured and measured.prefill else ""


def _warnings(bundles: Sequence[Bundle]) -> Iterator[str]:
    """Yield each warning once, with the bundles that have it unless all have."""
    having: dict[str, list[str]] = {}
    for it in bundles:
        for warning in it.warnings:
            having.setdefault(warning, []).append(it.manifest.stem)
    for warning, stems in having.items():
        place = "" if len(stems) == len(bundles) else f" {', '.join(stems)}:"
        yield f"warning:{place} {warning}"


def _next(bundles: Sequence[Bundle], rows: Path | None) -> Iterator[str]:
    """Yield the commands that usually come next, ready to be typed."""
    first = bundles[0]
    path = shlex.quote(str(first.path))
    yield f"edgeml inspect {path}"
    source = f"@{shlex.quote(str(rows))}" if rows else _INPUTS.get(type(first.manifest.preprocess), "@rows.jsonl")
    yield f"edgeml run {path} --input {source}"
    if not first.card.verified and first.manifest.cpu.arch != platform.machine():
        yield f"edgeml target prepare {first.manifest.target}   # once: exports are then verified on its CPU, emulated"
    yield f"edgeml publish {' '.join(shlex.quote(str(it.path)) for it in bundles)} --repo FOLDER"


def _row(bundle: Bundle) -> tuple[str, ...]:
    card, measured = bundle.card, bundle.measurements
    accuracy = "not measured"
    if card.accuracy:
        unit = "" if card.accuracy.is_fraction else f"{card.accuracy.metric} "
        accuracy = f"{unit}{card.accuracy.fp32:.3f} -> {card.accuracy.int8:.3f}"
    return (
        bundle.path.name,
        card.recipe,
        f"{size(card.size_bytes)} ({card.size_bytes / card.baseline_size_bytes:.2f} x)",
        f"{measured.speedup:.2f} x fp32" if measured else "not measured",
        f"{card.parity.cosine:.4f}",
        accuracy,
        ", ".join(f"{it.cpu}: {it.how}" for it in card.verified) or "this machine's",
    )

"""`edgeml run`: inference on this machine by the code that runs on a device."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from edgeml.bundles import Bundle
from edgeml.cli.output import Output, command
from edgeml_core.errors import UsageError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "source", required=True, metavar="JSON", help="An object, a list of them, or - for stdin.")
@command(
    extra="agent",
    examples=(
        """edgeml run minilm-1-rpi4-onnx.edgeml --input '{"text": "a cow in a field"}'""",
        "edgeml run digits-1-rpi4-tflite.edgeml --input - --json < rows.json",
    ),
)
def run(out: Output, bundle: Path, source: str) -> None:
    """Answer requests with BUNDLE.

    By task: {"text": ...}, {"question": ..., "context": ...}, {"prompt": ..., "max_new_tokens": 20}, {"image": base64},
    for a detector with "threshold": 0.5, {"audio": base64 of a WAV file} or {"inputs": {name: nested list}}.
    """
    text = sys.stdin.read() if source == "-" else source
    try:
        request = json.loads(text)
    except ValueError as error:
        raise UsageError("input-invalid", f"--input is not JSON: {error}", 'for example {"text": "hello"}') from error
    outputs = Bundle.open(bundle).run(request)
    out.result({"outputs": outputs}, "\n".join(json.dumps(answer) for answer in outputs))

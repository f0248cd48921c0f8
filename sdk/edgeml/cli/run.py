"""`edgeml run`: inference on this machine by the code that runs on a device."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from edgeml.cli.output import Output, command
from edgeml_core.errors import UsageError

#: A field of a request and its text, or the path of its file.
_FIELD: Final = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)

#: Fields whose value is a text or a path.
_TEXTS: Final = ("text", "text_pair", "question", "context", "prompt", "image", "audio", "language")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "sources",
    required=True,
    multiple=True,
    metavar="INPUT",
    help="FIELD=VALUE, @FILE of rows, JSON, or - for rows or JSON on stdin.",
)
@command(
    extra="agent",
    examples=(
        'edgeml run minilm-1-rpi4-onnx.edgeml --input text="a cow in a field"',
        "edgeml run colors-1-rpi4-onnx.edgeml --input image=cat.png",
        "edgeml run mood-1-rpi4-onnx.edgeml --input @test.csv --json > answers.jsonl",
        """edgeml run minilm-1-rpi4-onnx.edgeml --input '{"text": "a cow in a field"}'""",
        "edgeml run digits-1-rpi4-tflite.edgeml --input - --json < rows.json",
    ),
)
def run(out: Output, bundle: Path, sources: tuple[str, ...]) -> None:
    """Answer requests with BUNDLE.

    By task: {"text": ...}, with a mask in it "top_k": 5, {"question": ..., "context": ...}, {"prompt": ...,
    "max_new_tokens": 20}, {"image": path}, for a detector with "threshold": 0.5, {"audio": path}, for Whisper with
    "language": "de", or {"inputs": {name: nested list}}. A picture or a sound may be in base64 instead. Several
    --input FIELD=VALUE make one request.

    Rows are those of `edgeml export --evaluate`: JSON lines, a JSON array or CSV with a header. Each is answered alone,
    and --json prints one answer a line. For JSON, --json prints {"outputs": [...]}.

    Sounds are WAV, FLAC, OGG or MP3 files of any rate. A device without the extra `sound` takes WAV files at the
    model's rate only.
    """
    if len(sources) == 1 and sources[0].startswith("@"):
        _rows(out, bundle, Path(sources[0][1:]))
    elif sources == ("-",):
        _stdin(out, bundle, sys.stdin.buffer.read())
    else:
        _request(out, bundle, _parse(sources))


def _parse(sources: Sequence[str]) -> object:
    fields = [_FIELD.fullmatch(source) for source in sources]
    if all(fields):
        return {field[1]: _value(field[1], field[2]) for field in fields if field}
    hint = 'for example --input text=hello, --input image=cat.png or --input \'{"text": "hello"}\''
    if len(sources) > 1:
        raise UsageError("input-invalid", "only FIELD=VALUE can be given several times", hint)
    try:
        return json.loads(sources[0])
    except ValueError as error:
        raise UsageError("input-invalid", f"--input is not JSON: {error}", hint) from error


def _value(name: str, text: str) -> object:
    """Take a text or a path as it is, and any other field as JSON, such as a threshold."""
    if name in _TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        hint = f"give --input {name}= a number or another JSON value"
        raise UsageError("input-invalid", f"{name}={text} is not JSON: {error}", hint) from error


def _request(out: Output, bundle: Path, request: object) -> None:
    from edgeml.inference import run_with_files  # noqa: PLC0415 - imports NumPy and the runtimes

    outputs = run_with_files(bundle, request, out.note)
    out.result({"outputs": outputs}, "\n".join(json.dumps(answer) for answer in outputs))


def _stdin(out: Output, bundle: Path, content: bytes) -> None:
    """Answer one JSON value as a request, and anything else as rows."""
    try:
        request = json.loads(content)
    except ValueError:
        _rows(out, bundle, Path("stdin"), content)
    else:
        _request(out, bundle, request)


def _rows(out: Output, bundle: Path, path: Path, content: bytes | None = None) -> None:
    from edgeml.inference import run_rows  # noqa: PLC0415 - imports NumPy and the runtimes

    for answer in run_rows(bundle, path, out.note, content=content):
        click.echo(json.dumps(answer))

"""`edgeml verify`: are the golden outputs reproduced?"""

from __future__ import annotations

from pathlib import Path

import click

from edgeml.cli.output import Output, command


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--on", type=click.Choice(["local"]), default="local", show_default=True, help="Where to run it.")
@command(extra="agent", examples=("edgeml verify minilm-1-x86-vnni-onnx.edgeml --json",))
def verify(out: Output, bundle: Path, on: str) -> None:
    """Run BUNDLE's golden inputs and compare with its golden outputs; every byte is checked first."""
    from edgeml import inference  # noqa: PLC0415 - kept out of --help

    result = inference.verify(bundle)
    value = {"ok": True, "on": on, "cosine": result.min_cosine, "max_abs": result.max_abs}
    text = f"reproduced on {on}: cosine {result.min_cosine:.6f}, largest difference {result.max_abs:.2e}"
    out.result(value, text)

"""`edgeml verify`: are the golden outputs reproduced?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeml.bundles import Bundle
from edgeml.cli import device_options
from edgeml.cli.output import Output, command


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="local|emulated|ssh://HOST|device:ID",
    help="This machine; the target's CPU emulated; a machine with edgeml-deploy[agent], reached by ssh: "
    "ssh://[USER@]HOST[:PORT][/PATH/OF/PYTHON]; or a device of a fleet that holds the bundle.",
)
@device_options.with_connection
@command(
    extra="agent",
    examples=(
        "edgeml verify minilm-1-x86-vnni-onnx.edgeml --json",
        "edgeml verify minilm-1-rpi4-onnx.edgeml --on emulated",
        "edgeml verify minilm-1-rpi4-onnx.edgeml --on ssh://pi@garden/opt/edgeml/bin/python3",
        "edgeml verify minilm-1-rpi4-onnx.edgeml --on device:barn-1 --broker mqtts://broker.example",
    ),
)
def verify(out: Output, bundle: Path, on: str, **connection: Any) -> None:  # noqa: ANN401 - see device_options
    """Run BUNDLE's golden inputs and compare with its golden outputs; every byte is checked first.

    A device receives nothing: it runs the same bundle, which it holds already, beside the models that it serves.
    """
    found = Bundle.open(bundle).verify(on, fleet=device_options.connection(on, **connection))
    cpu = f"an emulated {found.cpu}" if found.how == "emulated" else found.cpu
    text = f"reproduced on {cpu}: cosine {found.min_cosine:.6f}, largest difference {found.max_abs:.2e}"
    value = {"on": on, "cpu": found.cpu, "how": found.how, "cosine": found.min_cosine, "max_abs": found.max_abs}
    out.result({"ok": True, **value}, text)

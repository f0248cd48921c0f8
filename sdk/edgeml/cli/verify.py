"""`edgeml verify`: are the golden outputs reproduced?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from edgeml.cli.output import Output, command


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="local|emulated|ssh://HOST",
    help="This machine; the target's CPU emulated; or a machine with edgeml[agent], reached by ssh. "
    "ssh://[USER@]HOST[:PORT][/PATH/OF/PYTHON].",
)
@command(
    extra="agent",
    examples=(
        "edgeml verify minilm-1-x86-vnni-onnx.edgeml --json",
        "edgeml verify minilm-1-rpi4-onnx.edgeml --on emulated",
        "edgeml verify minilm-1-rpi4-onnx.edgeml --on ssh://pi@garden/opt/edgeml/bin/python3",
    ),
)
def verify(out: Output, bundle: Path, on: str) -> None:
    """Run BUNDLE's golden inputs and compare with its golden outputs; every byte is checked first."""
    from edgeml import inference  # noqa: PLC0415 - kept out of --help

    if on == "local":
        here = inference.verify(bundle)
        _tell(out, {"on": on, "cosine": here.min_cosine, "max_abs": here.max_abs}, "here")
        return
    there = inference.verify_elsewhere(bundle, on)
    value = {"on": on, "cpu": there.cpu, "how": there.how, "cosine": there.min_cosine, "max_abs": there.max_abs}
    _tell(out, value, f"on {'an emulated ' if there.how == 'emulated' else ''}{there.cpu}")


def _tell(out: Output, value: Mapping[str, object], where: str) -> None:
    text = f"reproduced {where}: cosine {value['cosine']:.6f}, largest difference {value['max_abs']:.2e}"
    out.result({"ok": True, **value}, text)

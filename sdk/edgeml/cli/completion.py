"""`edgeml completion`: print the script that a shell evaluates. click writes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from edgeml.cli.output import Output, command


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@command(
    examples=('eval "$(edgeml completion bash)"', "edgeml completion fish > ~/.config/fish/completions/edgeml.fish")
)
def completion(out: Output, shell: str) -> None:
    """Print the completion script for SHELL."""
    root = click.get_current_context().find_root().command
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choice above lists what click has
    script = found(root, {}, "edgeml", "_EDGEML_COMPLETE").source()
    out.result({"shell": shell, "script": script}, script)

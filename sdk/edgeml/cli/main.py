"""`edgeml`: the table of commands, loaded when named, and the one place where errors become exit codes.

No command's module is imported for `edgeml --help`: the short helps stand in the table.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

import click

from edgeml.cli import config, output
from edgeml_core import __version__
from edgeml_core.errors import EdgemlError, UsageError

EXIT_INTERRUPTED: Final = 130

#: name -> (module and attribute of its click command, its line in `edgeml --help`); in the order of the work.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("edgeml.cli.demo:demo", "Export, deliver and serve a real model on this machine."),
    "export": ("edgeml.cli.export:export", "Export and quantize a model for a board, check it, pack it."),
    "inspect": ("edgeml.cli.inspect:inspect", "Print a bundle's manifest and result card."),
    "run": ("edgeml.cli.run:run", "Run a bundle on this machine with the device's code."),
    "verify": ("edgeml.cli.verify:verify", "Reproduce a bundle's golden outputs, here or elsewhere."),
    "bench": ("edgeml.cli.bench:bench", "Measure a bundle's latency, throughput, memory and energy."),
    "target": ("edgeml.cli.target:target", "Boards: list, show, check, prepare."),
    "repo": ("edgeml.cli.repo:repo", "A repository of signed releases: init, withdraw, export."),
    "publish": ("edgeml.cli.publish:publish", "Sign bundles and add them to a repository."),
    "device": ("edgeml.cli.device:device", "Enroll devices."),
    "fleet": ("edgeml.cli.fleet:fleet", "Serve a fleet, deploy to it and watch it."),
    "config": ("edgeml.cli.config:config", "Print each setting and its origin."),
    "doctor": ("edgeml.cli.doctor:doctor", "Report every fault of this installation, with its remedy."),
    "completion": ("edgeml.cli.completion:completion", "Print the completion script for bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        config.bind(command, (cmd_name,))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    epilog="Exit codes: 0 ok, 1 a gate failed, 2 usage or input, 4 rejected, 5 transport, 6 device, 70 a fault of"
    " edgeml, 130 interrupted."
    "\n\nSettings: an option that isn't given comes from its variable, such as EDGEML_EXPORT_MAX_SIZE, or from a file:"
    " `max-size` under [export] in ./edgeml.toml, ~/.config/edgeml/edgeml.toml or /etc/edgeml/edgeml.toml.",
)
@click.version_option(__version__, prog_name="edgeml")
@click.pass_context
def edgeml(ctx: click.Context) -> None:
    """Fine-tuned models as verified, signed int8 bundles for named boards, delivered over MQTT."""
    assert isinstance(ctx.command, LazyGroup)  # noqa: S101 - as decorated
    ctx.default_map = config.default_map(ctx, ctx.command, ctx.invoked_subcommand or "")


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, as with `head`: there is nothing to report
    sys.exit(0)


def _run(arguments: list[str]) -> None:
    try:
        edgeml.main(args=arguments, prog_name="edgeml", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(UsageError.exit_code)
    except click.ClickException as error:
        usage = UsageError("usage", error.format_message(), _usage_hint(error))
        output.fail(usage, as_json="--json" in arguments)
    except EdgemlError as error:
        output.fail(error, as_json="--json" in arguments)
    except (KeyboardInterrupt, click.Abort):
        _fail_interrupted(arguments)
    except (SystemExit, BrokenPipeError):
        raise
    except BaseException as error:  # noqa: BLE001 -- panics of Rust extensions derive from BaseException alone
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a C++ extension is imported
            _fail_interrupted(arguments)
        from edgeml.cli import fault_report  # noqa: PLC0415 -- seldom needed

        output.fail(fault_report.as_error(error, arguments), as_json="--json" in arguments)


def _fail_interrupted(arguments: list[str]) -> NoReturn:
    stopped = UsageError("interrupted", "stopped by the operator; no unfinished file is left behind")
    output.fail(stopped, as_json="--json" in arguments, exit_code=EXIT_INTERRUPTED)


def _usage_hint(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"see `{ctx.command_path} --help`" if ctx else "see `edgeml --help`"

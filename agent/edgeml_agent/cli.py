"""`edgeml-agent`: parse arguments, make one call per command, print text and exit codes.

It uses argparse, since devices have no click. Results are printed on stdout, log and errors on stderr. With `--json`
stdout has one object, for an error, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from edgeml_agent import log, settings
from edgeml_agent.settings import Settings
from edgeml_core import __version__
from edgeml_core.errors import DeviceError, EdgemlError, UsageError

if TYPE_CHECKING:
    from edgeml_agent.commands.status import ModelStatus
    from edgeml_core.calls import Check
    from edgeml_core.messages import Tuned

EXIT_INTERRUPTED: Final = 130
DEFAULT_CONFIG: Final = Path("agent.toml")
EPILOG: Final = "Exit codes: 0 ok, 2 usage or input, 4 rejected, 5 transport, 6 device, 130 interrupted."

Arguments = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = parser().parse_args(given)
        log.set_up(verbose=parsed.verbose)
        parsed.command(parsed)
    except EdgemlError as error:
        _fail(error, as_json="--json" in given, code=error.exit_code)
    except ModuleNotFoundError as error:
        hint = "pip install 'edgeml-deploy[agent]'"
        missing = UsageError("extra-missing", f"{error.name} is not installed here", hint)
        _fail(missing, as_json="--json" in given, code=missing.exit_code)
    except KeyboardInterrupt:
        stopped = UsageError("interrupted", "stopped; the models that served before still do")
        _fail(stopped, as_json="--json" in given, code=EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has closed it, as `head` does
    sys.exit(0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", message, f"see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """Make the parser; docs/agent-cli.md is written from it."""
    parser = _Parser(prog="edgeml-agent", description="The device's side of edgeml.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"edgeml-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _command(commands, _run, "Fetch, verify and serve the releases that the fleet deploys.", "run --config agent.toml")
    enroll = _command(
        commands,
        _enroll,
        "Join a fleet with a token of its operator; the device makes its own key.",
        "enroll https://host.example:8443 TOKEN -o /etc/edgeml",
        "enroll https://host.example:8443 TOKEN --id barn-1 --store /var/lib/edgeml -o /etc/edgeml",
    )
    enroll.add_argument("url", metavar="URL", help="as `edgeml device token` prints it")
    enroll.add_argument("token", metavar="TOKEN", help="works once; - reads it from stdin")
    enroll.add_argument("--id", dest="device", metavar="ID", help="unique in the fleet; default: this host's name")
    enroll.add_argument("--store", metavar="DIR", help="the folder for releases; default: store beside agent.toml")
    enroll.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="of agent.toml; default: here")
    install = _command(
        commands,
        _install,
        "Install from a stick, without a broker.",
        "install /media/stick/repo --config agent.toml",
        "install /media/stick/mood-1.1-rpi4-onnx.edgeml",
    )
    install.add_argument("source", type=Path, metavar="BUNDLE|DIR", help="a bundle, or the folder of a repository")
    _command(commands, _status, "Show this device and the versions that it serves.", "status", "status --json")
    _command(commands, _models, "List the models on this device.", "models --config agent.toml")
    rollback = _command(commands, _rollback, "Serve the version before the active one again.", "rollback mood")
    rollback.add_argument("name", metavar="NAME", help="the model")
    top = _command(commands, _top, "Show the load of the serving models.", "top", "top --once --json")
    top.add_argument("--once", action="store_true", help="show the next second, then exit")
    _command(
        commands, _doctor, "Show problems of this device and how to fix them.", "doctor", "doctor --config agent.toml"
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], function: Callable[[Arguments], None], text: str, *examples: str
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  edgeml-agent {example}" for example in examples)
    parser = commands.add_parser(
        function.__name__.removeprefix("_"),
        help=text,
        description=text,
        epilog=f"Examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: agent.toml")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.add_argument("--verbose", action="store_true", help="log more detail")
    parser.set_defaults(command=function)
    return parser


def _run(given: Arguments) -> None:
    from edgeml_agent import main  # noqa: PLC0415 - the server and MQTT are kept out of the other commands

    main.run(_settings(given))


def _enroll(given: Arguments) -> None:
    from edgeml_agent.commands import enroll  # noqa: PLC0415 - kept out of the other commands

    token = sys.stdin.readline().strip() if given.token == "-" else given.token  # noqa: S105 - stdin's name
    done = enroll.enroll(given.url, token, given.output, device=given.device, store=given.store)
    lines = [f"enrolled {done.device}", f"next: edgeml-agent run --config {done.config}"]
    _answer(given, msgspec.to_builtins(done), lines)


def _install(given: Arguments) -> None:
    from edgeml_agent.offline import install  # noqa: PLC0415 - kept out of the other commands

    installed = install.install(_settings_of_store(given), given.source)
    models = [{"name": it.name, "version": it.version, "manifest_sha256": it.active} for it in installed.models]
    lines = [f"installed {it.name} {it.version}" if it.active else f"removed {it.name}" for it in installed.models]
    if not installed.failures:
        _answer(given, {"installed": models}, lines or ["up to date"])
        return
    failed = [{"name": it.name, "version": it.version, **it.error.to_dict()} for it in installed.failures]
    first = installed.failures[0].error
    _answer(given, {"installed": models, "failed": failed, "error": first.to_dict()}, lines)
    if not given.json:
        for it in installed.failures:
            _print_error(it.error, f"{it.name} {it.version}: ")
    sys.exit(first.exit_code)


def _status(given: Arguments) -> None:
    from edgeml_agent.commands import status  # noqa: PLC0415 - kept out of --help

    found = status.device(_settings_of_store(given))
    running = "runs" if found.running else "doesn't run"
    lines = [f"{found.device} of fleet {found.fleet}, broker {found.broker}, store {found.store}: the agent {running}"]
    lines += [_model_line(model) for model in found.models] or ["no models"]
    _answer(given, msgspec.to_builtins(found), lines)


def _models(given: Arguments) -> None:
    from edgeml_agent.commands import status  # noqa: PLC0415 - kept out of --help

    models = status.device(_settings_of_store(given)).models
    lines = [_model_line(model) for model in models] or ["no models"]
    _answer(given, {"models": msgspec.to_builtins(models)}, lines)


def _model_line(model: ModelStatus) -> str:
    serves = f"{model.version} ({model.target}, {model.format})" if model.version else "nothing"
    serves += ", withdrawn by the release key" if model.withdrawn else ""
    failure = f": error[{model.code}]: {model.message}" if model.code else ""
    tuned = f"; tuned: {_tuned(model.tuned)}" if model.tuned else ""
    return f"{model.name}: serves {serves}{tuned}; update to {model.wanted_version or 'nothing'} {model.state}{failure}"


def _tuned(found: Tuned) -> str:
    prepared = f", weights mapped ({found.saved_bytes / 1024**2:.0f} MiB saved)" if found.prepared else ""
    how = f"{found.threads} thread(s), up to {found.batch_size} request(s) per run{prepared}"
    return f"{how}, {found.exported_ms:.2f} -> {found.tuned_ms:.2f} ms"


def _rollback(given: Arguments) -> None:
    from edgeml_agent.store.database import Store  # noqa: PLC0415 - kept out of --help

    store = Store(_settings_of_store(given).store.dir)
    record = store.roll_back(given.name, "", "rolled back on this device")
    store.close()
    answer = {"name": record.name, "manifest_sha256": record.active}
    _answer(given, answer, [f"rolled {record.name} back; a running agent serves the version before within seconds"])


def _top(given: Arguments) -> None:
    from edgeml_agent.commands import top  # noqa: PLC0415 - the server's parts are kept out of the other commands

    redraws = sys.stdout.isatty() and not (given.once or given.json)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it
        for frame in top.frames(_settings(given).serve):
            sys.stdout.write(top.CLEAR if redraws else "")
            _answer(given, msgspec.to_builtins(frame), top.lines(frame))
            if given.once:
                break


def _doctor(given: Arguments) -> None:
    from edgeml_agent.commands import doctor  # noqa: PLC0415 - kept out of --help

    has_config = given.config != DEFAULT_CONFIG or given.config.exists()
    checks = doctor.run(_settings(given) if has_config else None)
    lines = [_check_line(check) for check in checks]
    _answer(given, {"checks": msgspec.to_builtins(checks)}, lines)
    if any(check.status == "failed" for check in checks):
        sys.exit(DeviceError.exit_code)


def _check_line(check: Check) -> str:
    remedy = f"\n         {check.remedy}" if check.remedy else ""
    return f"{check.status:<8} {check.name}: {check.detail}{remedy}"


def _settings(given: Arguments) -> Settings:
    return settings.load(given.config, os.environ)


def _settings_of_store(given: Arguments) -> Settings:
    """Return the settings; warn where the agent has never run with their store: perhaps its store is another one."""
    from edgeml_agent.store.database import DATABASE_NAME  # noqa: PLC0415 - kept out of --help

    found = _settings(given)
    if not (found.store.dir / DATABASE_NAME).exists():
        sys.stderr.write(
            f"warning: {found.store.dir} is a new store, which no agent has used before\n"
            "hint: name the agent.toml of this device's agent with --config, and in its [store] dir an absolute path\n"
        )
    return found


def _answer(given: Arguments, value: object, lines: Sequence[str]) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n" if given.json else "".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _fail(error: EdgemlError, *, as_json: bool, code: int) -> NoReturn:
    if as_json:
        sys.stdout.write(json.dumps({"error": error.to_dict()}) + "\n")
    else:
        _print_error(error)
    sys.exit(code)


def _print_error(error: EdgemlError, prefix: str = "") -> None:
    sys.stderr.write(f"error[{error.code}]: {prefix}{error.message}\n")
    if error.__cause__ is not None and str(error.__cause__) not in error.message:
        sys.stderr.write(f"  cause: {error.__cause__}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")

"""Defaults from files, and `edgeml config show`: flag > EDGEML_* > ./edgeml.toml > the user's > the system's.

A file has one table for each command (`[export]`, `[fleet.deploy]`); its keys are the long options without dashes, its
values are read as the options' texts. click applies the precedence, by the names of a command's parameters: `bind` and
`default_map` translate from the names that users know. `show` masks secrets.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from edgeml.cli.output import Output, command, table
from edgeml_core.errors import UsageError

CONFIG_NAME: Final = "edgeml.toml"
ENVIRONMENT_PREFIX: Final = "EDGEML_"
MASKED: Final = "********"
#: A setting with one of these words in its name holds a secret; a name that ends in `_file` holds a path.
_SECRET_NAME: Final = re.compile(r"(pass(word|phrase)|secret|token|credential|api_?key)(?!.*_file$)", re.IGNORECASE)
#: User and password of a URL, up to the last `@`: a password may hold any character.
_USERINFO: Final = re.compile(r"(?<=://).*(?=@)", re.DOTALL)


def files() -> tuple[Path, ...]:
    """List the configuration files, weakest first; they need not exist."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (Path("/etc/edgeml") / CONFIG_NAME, user / "edgeml" / CONFIG_NAME, Path(CONFIG_NAME))


def bind(command: click.Command, path: tuple[str, ...]) -> None:
    """Give each option of a command, by its path, its variable: `EDGEML_EXPORT_MAX_SIZE` for `--max-size`."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            bind(child, (*path, name))
    for name, option in _options(command).items():
        option.envvar = ENVIRONMENT_PREFIX + "_".join((*path, name)).upper().replace("-", "_")


def default_map(ctx: click.Context, root: click.Group, invoked: str) -> dict[str, Any]:
    """Merge the files into click's nested defaults of one command: command -> parameter -> value.

    Raises:
        UsageError: `config-invalid`, when a file is not TOML, or names a command or an option that isn't there.
    """
    merged: dict[str, Any] = {}
    for path in files():
        values = _read(path)
        for name in values:
            if name not in root.list_commands(ctx):
                raise _unknown(path, (), name)
        if invoked in values and (command := root.get_command(ctx, invoked)) is not None:
            _merge(merged, {invoked: _defaults(path, (invoked,), command, values[invoked])})
    return merged


def _options(command: click.Command) -> dict[str, click.Option]:
    """Map the name of each option that can be set to the option; `--json` is for each call to choose."""
    options = [it for it in command.params if isinstance(it, click.Option) and it.name != "as_json"]
    return {name.removeprefix("--"): it for it in options for name in it.opts if name.startswith("--")}


def _defaults(path: Path, names: tuple[str, ...], command: click.Command, values: object) -> dict[str, Any]:
    """Translate a command's table."""
    if not isinstance(values, dict):
        message = f"{path}: {'.'.join(names)} = {values!r}: a command's settings are a table"
        raise UsageError("config-invalid", message, f"write [{'.'.join(names)}] on a line of its own")
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(command, click.Group):
            if key not in command.commands:
                raise _unknown(path, names, key)
            found[key] = _defaults(path, (*names, key), command.commands[key], value)
            continue
        option = _options(command).get(key.replace("_", "-"))
        if option is None or isinstance(value, dict):
            raise _unknown(path, names, key)
        if isinstance(value, list) and not option.multiple:
            message = f"{path}: [{'.'.join(names)}] {key} has {len(value)} values: --{key} takes one"
            raise UsageError("config-invalid", message, "write it without brackets")
        found[str(option.name)] = _text([value] if option.multiple and not isinstance(value, list) else value)
    return found


def _text(value: object) -> object:
    """Write a value, or each of a list, as on the command line; a flag's stays as it is."""
    if isinstance(value, list):
        return [_text(it) for it in value]
    return value if isinstance(value, bool) else str(value)


def _unknown(path: Path, names: tuple[str, ...], key: str) -> UsageError:
    where = f"[{'.'.join(names)}] has" if names else "it has"
    hint = f"see `edgeml {' '.join((*names, '--help'))}`: tables have the names of commands, settings those of options"
    return UsageError("config-invalid", f"{path}: {where} {key!r}, which edgeml doesn't know", hint)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError("config-invalid", f"{path} can't be read: {error}", "correct or remove the file") from error


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        name = key.replace("-", "_") if not isinstance(value, dict) else key
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def settings() -> dict[str, tuple[object, str]]:
    """Find each setting in force with its origin: a file's path, or the environment variable's name.

    Secrets are replaced by `MASKED`.
    """
    found: dict[str, tuple[object, str]] = {}
    for path in files():
        values: dict[str, Any] = {}
        _merge(values, _read(path))
        found |= {name: (value, str(path)) for name, value in _leaves(values)}
    for variable, value in sorted(os.environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", ".", 1)
            found[name] = (value, variable)
    return {name: (masked(name, value), origin) for name, (value, origin) in found.items()}


def masked(name: str, value: object) -> object:
    """Replace a secret: the whole value of a setting with such a name, or user and password in a URL."""
    if isinstance(value, list):
        return [masked(name, item) for item in value]
    if not isinstance(value, str):
        return value
    if value and _SECRET_NAME.search(name):
        return MASKED
    return _USERINFO.sub(MASKED, value)


@click.group()
def config() -> None:
    """Print each setting and its origin."""


@config.command()
@command(examples=("edgeml config show", "EDGEML_EXPORT_TARGET=rpi4 edgeml config show --json"))
def show(out: Output) -> None:
    """Print each setting that a file or the environment gives, with its origin; secrets are masked."""
    found = settings()
    value = {name: {"value": value, "origin": origin} for name, (value, origin) in found.items()}
    rows = [(name, value, origin) for name, (value, origin) in found.items()]
    out.result(
        {"settings": value}, table(("setting", "value", "origin"), rows) if rows else "no settings: all defaults"
    )

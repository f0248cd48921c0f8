"""Defaults from files, and `edgeml config show`: flag > EDGEML_* > ./edgeml.toml > the user's > the system's.

A file has one table a command (`[export]`, `[fleet.deploy]`) whose keys are its long options without the dashes.
click itself applies the precedence; here the files are only read and merged.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from edgeml.cli.output import Output, command, table
from edgeml_core.errors import UsageError

CONFIG_NAME: Final = "edgeml.toml"
ENVIRONMENT_PREFIX: Final = "EDGEML_"


def files() -> tuple[Path, ...]:
    """The configuration files, weakest first; they need not exist."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (Path("/etc/edgeml") / CONFIG_NAME, user / "edgeml" / CONFIG_NAME, Path(CONFIG_NAME))


def default_map() -> dict[str, Any]:
    """The files' values as click's nested defaults: command -> option -> value.

    Raises:
        UsageError: `config-invalid`, when a file is not TOML.
    """
    merged: dict[str, Any] = {}
    for path in files():
        _merge(merged, _read(path))
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError("config-invalid", f"{path} can't be read: {error}", "mend or remove the file") from error


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
            yield f"{prefix}{key}", value


def settings() -> dict[str, tuple[object, str]]:
    """Each setting in force with its origin: a file's path, or the environment variable's name."""
    found: dict[str, tuple[object, str]] = {}
    for path in files():
        values: dict[str, Any] = {}
        _merge(values, _read(path))
        found |= {name: (value, str(path)) for name, value in _leaves(values)}
    for variable, value in sorted(os.environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", ".", 1)
            found[name] = (value, variable)
    return found


@click.group()
def config() -> None:
    """Where each setting comes from."""


@config.command()
@command(examples=("edgeml config show", "EDGEML_EXPORT_TARGET=rpi4 edgeml config show --json"))
def show(out: Output) -> None:
    """Print each setting that a file or the environment gives, and which."""
    found = settings()
    value = {name: {"value": value, "origin": origin} for name, (value, origin) in found.items()}
    rows = [(name, value, origin) for name, (value, origin) in found.items()]
    out.result(
        {"settings": value}, table(("setting", "value", "origin"), rows) if rows else "no settings: all defaults"
    )

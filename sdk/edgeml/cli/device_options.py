"""The options by which commands that run a bundle somewhere reach a device of a fleet. Nothing is connected here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgeml.cli.output import Function, require_extra
from edgeml_core import broker as broker_urls

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection

_FILE: Final = click.Path(path_type=Path)
_OPTIONS: Final = (
    click.option("--broker", metavar="URL", help="For device:ID: mqtt[s]://[USER:PASSWORD@]HOST[:PORT]."),
    click.option("--fleet", metavar="NAME", default="edge", show_default=True, help="The device's fleet."),
    click.option("--ca", metavar="FILE", type=_FILE, help="The broker's authority; default: the system's."),
    click.option("--cert", metavar="FILE", type=_FILE, help="This host's own certificate."),
    click.option("--key", metavar="FILE", type=_FILE, help="The key of --cert."),
)


def reaching(function: Function) -> Function:
    """Give a command the options that `line` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def line(on: str, *, broker: str | None, fleet: str, **files: Any) -> DeviceConnection | None:  # noqa: ANN401 - paths
    """The way to the fleet of the device that `on` names; None for any other place, or when no broker is named.

    Raises:
        UsageError: `extra-missing`; `usage`, when the broker's URL is malformed.
    """
    if not on.startswith("device:") or broker is None:
        return None
    require_extra("fleet")
    from edgeml.fleet.call import DeviceConnection  # noqa: PLC0415 - imports MQTT
    from edgeml.fleet.link import Broker  # noqa: PLC0415 - as above

    return DeviceConnection(broker=Broker(url=broker_urls.parse(broker), **files), fleet=fleet)

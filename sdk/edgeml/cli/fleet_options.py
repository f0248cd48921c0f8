"""Options that several commands of `edgeml fleet` have: the repository, the database, the devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from edgeml.fleet.webhook import Webhook

Command = TypeVar("Command", bound=Callable[..., Any])

FILE: Final = click.Path(path_type=Path)

repository_option = click.option("--repo", metavar="DIR", type=FILE, required=True, help="The repository.")


def database_options(command: Command) -> Command:
    """Add the options that name the fleet's database."""
    named = click.option(
        "--database", metavar="FILE|URL", help="The registry, a file or postgresql://...; default: fleet.db in DIR."
    )
    with_password = click.option(
        "--database-password-file", metavar="FILE", type=FILE, help="The password of the database's user, on one line."
    )
    return named(with_password(command))


def broker_options(command: Command) -> Command:
    """Add the options by which the broker is reached; `Fleet` takes them under the same names."""
    options = (
        click.option("--broker", metavar="URL", help="mqtt[s]://[USER@]HOST[:PORT]"),
        click.option("--password-file", metavar="FILE", type=FILE, help="The password of USER, on one line."),
        click.option("--ca", metavar="FILE", type=FILE, help="The broker's authority; default: the system's."),
        click.option("--cert", metavar="FILE", type=FILE, help="This host's own certificate."),
        click.option("--key", metavar="FILE", type=FILE, help="The key of --cert."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def webhook_options(command: Command) -> Command:
    """Add the options that name a webhook."""
    options = (
        click.option("--webhook", metavar="URL", help="Send notices there: https://HOST/PATH."),
        click.option("--webhook-secret-file", metavar="FILE", type=FILE, help="The secret that signs them."),
        click.option("--webhook-ca", metavar="FILE", type=FILE, help="The webhook's authority; default: the system's."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_webhook(options: dict[str, Any]) -> Webhook | None:
    """Take the options of a webhook out of a command's options; None if none is named.

    Raises:
        UsageError: `usage`, for a bad address or file.
    """
    url, secret_file, ca = (options.pop(name) for name in ("webhook", "webhook_secret_file", "webhook_ca"))
    if url is None:
        return None
    from edgeml.fleet import webhook  # noqa: PLC0415 - kept out of --help

    return webhook.parse(url, secret_file, ca)


def device_options(command: Command) -> Command:
    """Add the options that select devices, `to` and `ids`."""
    by_label = click.option(
        "--to",
        metavar="SELECTOR",
        multiple=True,
        help="By labels: 'site in (a,b),!old', or @NAME; default: all devices.",
    )
    by_id = click.option("--device", "ids", metavar="ID", multiple=True, help="These devices alone.")
    return by_label(by_id(command))


def take_database(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the database out of a command's options."""
    return {name: options.pop(name) for name in ("database", "database_password_file")}

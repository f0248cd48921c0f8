"""`edgeml fleet user`: the accounts of the dashboard; and the options by which `serve` serves it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from edgeml.cli.fleet_options import FILE, database_options, repository_option
from edgeml.cli.output import Duration, Output, command, table
from edgeml_core.errors import UsageError
from edgeml_io import password_file as password_files

if TYPE_CHECKING:
    from edgeml.fleet.web.server import HttpOptions

_ROLE: Final = click.Choice(["view", "deploy", "admin"])
_password_file: Final = click.option(
    "--password-file", metavar="FILE", type=FILE, help="The password, on one line; else it is asked for."
)


def take_http(options: dict[str, Any]) -> HttpOptions | None:
    """Take the options of the dashboard out of a command's options; None if it isn't asked for.

    Raises:
        UsageError: `usage`, for one of them without `--http`.
    """
    address, cert, key = (options.pop(name) for name in ("http", "http_cert", "http_key"))
    insecure, proxies = options.pop("http_insecure"), options.pop("http_trusted_proxies")
    if address is None:
        if cert or key or insecure or proxies:
            raise UsageError("usage", "an option of the dashboard without the dashboard", "give --http HOST:PORT")
        return None
    from edgeml.fleet.web.server import HttpOptions  # noqa: PLC0415 - imports uvicorn and starlette

    return HttpOptions(address=address, cert=cert, key=key, insecure=insecure, proxies=proxies)


@click.group()
def user() -> None:
    """Add, change and remove accounts of the dashboard: people with a password, and tokens for programs."""


@user.command()
@click.argument("name")
@repository_option
@database_options
@click.option("--role", type=_ROLE, required=True, help="Its rights.")
@_password_file
@click.option("--token", is_flag=True, help="Make a token for a program instead, and print it once.")
@click.option("--expires", metavar="TIME", type=Duration(), help="The token's lifetime, as 90d; default: for ever.")
@command(
    extra="fleet",
    examples=(
        "edgeml fleet user add anna --repo ./repo --role admin",
        "edgeml fleet user add bert --repo ./repo --role view --password-file bert.password",
        "edgeml fleet user add grafana --repo ./repo --role view --token --expires 90d",
    ),
)
def add(out: Output, name: str, repo: Path, *, role: str, token: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Add an account. `view` sees the fleet, `deploy` acts on rollouts and devices, `admin` manages accounts, too."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help
    from edgeml.fleet.web.accounts import Role  # noqa: PLC0415 - as above

    file, lifetime_s = options.pop("password_file"), options.pop("expires")
    if token and file is not None:
        raise UsageError("usage", "a token has no password", "leave out --password-file or --token")
    if lifetime_s is not None and not token:
        raise UsageError("usage", "--expires is for a token", "give --token, too")
    with Fleet(repo, **options).administration() as accounts:
        if token:
            text = accounts.add_token(name, Role(role), lifetime_s=lifetime_s or 0.0)
            out.result({"name": name, "role": role, "token": text}, text)
            return
        accounts.add_user(name, Role(role), _password(file))
        out.result({"name": name, "role": role}, f"{name} may log in, with the role {role}")


@user.command("list")
@repository_option
@database_options
@command(extra="fleet", examples=("edgeml fleet user list --repo ./repo",))
def list_accounts(out: Output, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Print the accounts."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    with Fleet(repo, **database).administration() as accounts:
        found = accounts.all()
    rows = [(it.name, it.kind, it.role, _day(it.made_s), _day(it.expires_s) or "never") for it in found]
    value = {"accounts": [msgspec.to_builtins(it) for it in found]}
    out.result(value, table(("name", "kind", "role", "added", "expires"), rows))


@user.command()
@click.argument("name")
@repository_option
@database_options
@click.option("--role", type=_ROLE, required=True, help="Its rights from now on.")
@command(extra="fleet", examples=("edgeml fleet user change bert --repo ./repo --role deploy",))
def change(out: Output, name: str, repo: Path, *, role: str, **database: Any) -> None:  # noqa: ANN401 - click's
    """Give an account another role. It holds from the next request on, also in open sessions."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help
    from edgeml.fleet.web.accounts import Role  # noqa: PLC0415 - as above

    with Fleet(repo, **database).administration() as accounts:
        accounts.set_role(name, Role(role))
    out.result({"name": name, "role": role}, f"{name} has the role {role}")


@user.command()
@click.argument("name")
@repository_option
@database_options
@_password_file
@command(
    extra="fleet",
    examples=(
        "edgeml fleet user reset bert --repo ./repo",
        "edgeml fleet user reset grafana --repo ./repo",
    ),
)
def reset(out: Output, name: str, repo: Path, *, password_file: Path | None, **database: Any) -> None:  # noqa: ANN401 - click's
    """Replace a user's password, or a token by another of the same lifetime, and end the account's sessions."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    with Fleet(repo, **database).administration() as accounts:
        if accounts.find(name).kind == "token":
            if password_file is not None:
                raise UsageError("usage", f"{name} is a token, and has no password", "leave out --password-file")
            text = accounts.reset_token(name)
            out.result({"name": name, "token": text}, text)
            return
        accounts.reset_password(name, _password(password_file))
        out.result({"name": name}, f"the password of {name} is replaced, and its sessions have ended")


@user.command()
@click.argument("name")
@repository_option
@database_options
@command(extra="fleet", examples=("edgeml fleet user remove bert --repo ./repo",))
def remove(out: Output, name: str, repo: Path, **database: Any) -> None:  # noqa: ANN401 - click's
    """Remove an account, and end its sessions."""
    from edgeml.fleet.fleet import Fleet  # noqa: PLC0415 - kept out of --help

    with Fleet(repo, **database).administration() as accounts:
        accounts.remove(name)
    out.result({"removed": name}, f"{name} is removed")


def _password(file: Path | None) -> str:
    if file is not None:
        return password_files.read(file)
    found: str = click.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    return found


def _day(seen_s: float) -> str:
    return datetime.fromtimestamp(seen_s, UTC).strftime("%Y-%m-%d") if seen_s else ""

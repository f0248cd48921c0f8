"""The pages of accounts: administrators list, add, change, reset and remove them; a user changes the own password."""

from __future__ import annotations

from typing import TypeVar

from starlette.responses import RedirectResponse, Response

from edgeml.fleet.web import rendering
from edgeml.fleet.web.accounts import PASSWORD_MAX_CHARS, PASSWORD_MIN_CHARS, Accounts, Role
from edgeml.fleet.web.administration import Administration
from edgeml.fleet.web.api import DAY_S
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.gateway import Endpoint, converted
from edgeml.fleet.web.login_limits import LoginLimits
from edgeml.fleet.web.operations import NewRole, NewToken, NewUser
from edgeml.repository import RepositoryFolder
from edgeml_core import decoding
from edgeml_core.errors import UsageError

Kind = TypeVar("Kind", NewRole, NewToken, NewUser)


class AccountPages:
    """The endpoints of the pages of accounts.

    Args:
        repository: has the audit log.
        accounts: of the fleet.
        limits: of logins; a wrong present password counts as a failed one.
    """

    def __init__(self, repository: RepositoryFolder, accounts: Accounts, limits: LoginLimits) -> None:
        self._repository = repository
        self._accounts = accounts
        self._limits = limits

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints, by name."""
        return {
            "accounts_page": self._list,
            "add_account_form": self._add,
            "account_page": self._show,
            "change_account_form": self._change,
            "own_account_page": self._show_own,
            "own_password_form": self._change_own_password,
        }

    def _list(self, exchange: Exchange, name: str = "", token: str = "") -> Response:
        """Return the list, with the text of the token that was made; it is shown this one time."""
        found = self._administration(exchange).all()
        return _page("accounts.html", exchange, accounts=found, name=name, token=token)

    def _add(self, exchange: Exchange) -> Response:
        administration = self._administration(exchange)
        match exchange.body.get("kind"):
            case "user":
                user = _form(exchange, NewUser)
                administration.add_user(user.name, user.role, user.password)
                return RedirectResponse("/accounts", 303)
            case "token":
                new = _form(exchange, NewToken)
                token = administration.add_token(new.name, new.role, lifetime_s=new.days * DAY_S)
                return self._list(exchange, new.name, token)
        raise _unknown("kind", "user, token")

    def _show(self, exchange: Exchange) -> Response:
        return _page("account.html", exchange, it=self._administration(exchange).find(exchange.params["account"]))

    def _change(self, exchange: Exchange) -> Response:
        administration, name = self._administration(exchange), exchange.params["account"]
        match exchange.body.get("act"):
            case "role":
                administration.set_role(name, _form(exchange, NewRole).role)
            case "password":
                administration.reset_password(name, exchange.body.get("password", ""))
            case "token":
                return self._list(exchange, name, administration.reset_token(name))
            case "remove":
                administration.remove(name)
            case _:
                raise _unknown("act", "role, password, token, remove")
        return RedirectResponse("/accounts", 303)

    def _show_own(self, exchange: Exchange) -> Response:
        return _page("own_account.html", exchange)

    def _change_own_password(self, exchange: Exchange) -> Response:
        account, form = exchange.account, exchange.body
        assert account is not None  # noqa: S101 - its operation needs a role
        self._limits.begin(exchange.address, account.name)
        verified = self._accounts.by_password(account.name, form.get("present", ""))
        if verified is None:
            raise UsageError("login-failed", "the present password is wrong", "enter it again, or ask an administrator")
        self._limits.succeed(exchange.address, account.name)
        self._administration(exchange).change_password(verified, form.get("password", ""))
        return RedirectResponse("/login", 303)

    def _administration(self, exchange: Exchange) -> Administration:
        return Administration(self._repository, self._accounts, exchange.actor)


def _page(template: str, exchange: Exchange, **values: object) -> Response:
    chars = {"min_chars": PASSWORD_MIN_CHARS, "max_chars": PASSWORD_MAX_CHARS}
    return rendering.page(template, exchange, 200, roles=list(Role), **chars, **values)


def _form(exchange: Exchange, kind: type[Kind]) -> Kind:
    fields = {name: value for name, value in exchange.body.items() if name in kind.__struct_fields__}
    found: Kind = converted(lambda: decoding.convert(fields, kind, strict=False), "form")
    return found


def _unknown(field: str, known: str) -> UsageError:
    return UsageError("input-invalid", f"the form's {field} is unknown", f"set {field} to one of {known}")

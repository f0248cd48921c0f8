"""Adding, changing and removing accounts. Each such act is written to the audit log before it happens."""

from __future__ import annotations

from edgeml.fleet.web.accounts import Account, Accounts, Kind, Role, Verified, hash_password
from edgeml.repository import RepositoryFolder, layout
from edgeml_core.errors import UsageError


class Administration:
    """The accounts of a fleet, for operators. Errors are those of `Accounts`.

    Args:
        repository: has the audit log.
        accounts: in the fleet's database.
        actor: an account of the dashboard, as the audit log names it, which leaves an administrator there; None is the
            user of this process, who may remove all.
    """

    def __init__(self, repository: RepositoryFolder, accounts: Accounts, actor: str | None = None) -> None:
        self._repository = repository
        self._accounts = accounts
        self._actor = actor

    def all(self) -> list[Account]:
        """Return the accounts by name."""
        return self._accounts.all()

    def add_user(self, name: str, role: Role, password: str) -> None:
        """Add a user with a password."""
        with self._repository.locked():
            self._accounts.check_new(name)
            hashed = hash_password(password)
            self._log("user add", name, role)
            self._accounts.add_user(name, role, hashed)

    def add_token(self, name: str, role: Role, *, lifetime_s: float = 0.0) -> str:
        """Add a token, and return its text."""
        with self._repository.locked():
            self._accounts.check_new(name)
            self._log("token add", name, role)
            return self._accounts.add_token(name, role, lifetime_s=lifetime_s)

    def find(self, name: str) -> Account:
        """Return an account."""
        return self._accounts.known(name)

    def set_role(self, name: str, role: Role) -> None:
        """Give an account another role."""
        with self._repository.locked():
            self._accounts.known(name)
            if role is not Role.ADMIN:
                self._check_others(name)
            self._log("role change", name, role)
            self._accounts.set_role(name, role)

    def reset_password(self, name: str, password: str) -> None:
        """Replace a user's password, and end the user's sessions."""
        with self._repository.locked():
            self._known(name, "user")
            self._set_password(name, password)

    def change_password(self, verified: Verified, password: str) -> None:
        """Replace the own password, unless a reset came while this waited for the repository."""
        with self._repository.locked():
            if not self._accounts.still_has(verified):
                message = "the present password was replaced meanwhile"
                raise UsageError("login-failed", message, "log in with the new one, or ask an administrator")
            self._set_password(verified.account.name, password)

    def reset_token(self, name: str) -> str:
        """Replace a token by another one of the same lifetime, from now on, and return its text."""
        with self._repository.locked():
            account = self._known(name, "token")
            self._log("token reset", name)
            return self._accounts.renew_token(account)

    def remove(self, name: str) -> None:
        """Remove an account, and end its sessions."""
        with self._repository.locked():
            self._accounts.known(name)
            self._check_others(name)
            self._log("account remove", name)
            self._accounts.remove(name)

    def _set_password(self, name: str, password: str) -> None:
        hashed = hash_password(password)
        self._log("password reset", name)
        self._accounts.set_password(name, hashed)

    def _known(self, name: str, kind: Kind) -> Account:
        account = self._accounts.known(name)
        if account.kind != kind:
            raise UsageError("usage", f"{name} is a {account.kind}, no {kind}", "name another account")
        return account

    def _check_others(self, name: str) -> None:
        """Refuse to take the last administrator's rights from within the dashboard, which nobody could manage then."""
        others = (it for it in self.all() if it.name != name and it.role is Role.ADMIN)
        if self._actor is not None and not any(self._accounts.by_name(it.name) for it in others):
            hint = "add another administrator first, or use `edgeml fleet user`"
            raise UsageError("usage", f"{name} is the last administrator", hint)

    def _log(self, act: str, name: str, role: Role | None = None) -> None:
        self._repository.audit.append(act, name, {"role": role}, now=layout.utc_now(), actor=self._actor)

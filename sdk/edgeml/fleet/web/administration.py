"""Adding and removing accounts. Each such act is written to the audit log before it happens."""

from __future__ import annotations

from edgeml.fleet.web.accounts import Account, Accounts, Role, hash_password
from edgeml.repository import RepositoryFolder, layout


class Administration:
    """The accounts of a fleet, for operators. Errors are those of `Accounts`.

    Args:
        repository: has the audit log.
        accounts: in the fleet's database.
        actor: of the acts in the audit log; None is the user of this process.
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

    def remove(self, name: str) -> None:
        """Remove an account, and end its sessions."""
        with self._repository.locked():
            self._accounts.check_known(name)
            self._log("account remove", name, None)
            self._accounts.remove(name)

    def _log(self, act: str, name: str, role: Role | None) -> None:
        self._repository.audit.append(act, name, {"role": role}, now=layout.utc_now(), actor=self._actor)

"""Accounts of the dashboard: users with a password, and tokens for programs. Each has one role.

A password is stored as its argon2 hash. A token has 256 random bits, so its SHA-256 suffices.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import ACCOUNT, SESSION
from edgeml_core.errors import UsageError

#: Characters of a password. The upper limit bounds the work of hashing one.
PASSWORD_MIN_CHARS: Final = 10
PASSWORD_MAX_CHARS: Final = 256
#: Accounts of one fleet: people and programs, no devices.
ACCOUNTS_MAX: Final = 1000
#: The beginning of a token's text, by which scanners for leaked secrets find it.
TOKEN_PREFIX: Final = "edgeml_"  # noqa: S105 - no secret
#: Memory in KiB, passes and threads of argon2: 19 MiB and 2 passes, as OWASP's cheat sheet on passwords has it.
_MEMORY_KIB: Final = 19 * 1024
_PASSES: Final = 2
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

Kind = Literal["user", "token"]


class Role(StrEnum):
    """The rights of an account; each role has those of the ones before."""

    VIEW = "view"
    DEPLOY = "deploy"
    ADMIN = "admin"

    def permits(self, needed: Role) -> bool:
        """Return whether an account of this role may do what needs another one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account, without its secret. Times are in seconds since 1970; an account that expires at 0 never does."""

    name: str
    kind: Kind
    role: Role
    made_s: float
    expires_s: float = 0.0


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose password or token was right, and the stored secret that it was compared with.

    A reset in the meantime replaces that secret: then the password or token is no longer right.
    """

    account: Account
    secret: str


class Accounts:
    """The accounts in the fleet's database. Each method raises `DeviceError` (`store-failed`) when it can't be used.

    Args:
        database: the fleet's.
        clock: the time in seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def all(self) -> list[Account]:
        """Return the accounts by name."""
        with self._database.reading() as connection:
            return [_account(row) for row in connection.execute(sa.select(ACCOUNT).order_by(ACCOUNT.c.name))]

    def check_new(self, name: str) -> None:
        """Check that an account of this name can be added.

        Raises:
            UsageError: `usage`, for a bad name, or beyond `ACCOUNTS_MAX`; `account-exists`.
        """
        if not _NAME.fullmatch(name):
            hint = "use at most 64 letters, digits and . _ @ -, a letter or digit first"
            raise UsageError("usage", f"{name!r} can't name an account", hint)
        names = {it.name for it in self.all()}
        if name in names:
            raise UsageError("account-exists", f"there is an account {name!r}", "choose another name, or remove it")
        if len(names) >= ACCOUNTS_MAX:
            raise UsageError("usage", f"there are {len(names)} accounts, the most that may be", "remove some")

    def known(self, name: str) -> Account:
        """Return an account, also an expired one.

        Raises:
            UsageError: `account-unknown`.
        """
        for it in self.all():
            if it.name == name:
                return it
        raise UsageError("account-unknown", f"there is no account {name!r}", "see `edgeml fleet user list`")

    def add_user(self, name: str, role: Role, hashed: str) -> None:
        """Add a user with the hash of a password, behind `check_new`."""
        self._add(name, "user", role, hashed, expires_s=0.0)

    def add_token(self, name: str, role: Role, *, lifetime_s: float = 0.0) -> str:
        """Add a token behind `check_new`, and return its text, which is stored nowhere.

        Args:
            name: of the account.
            role: its rights.
            lifetime_s: seconds after which it expires; 0 is never.
        """
        text = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._add(name, "token", role, _digest(text), expires_s=self._clock() + lifetime_s if lifetime_s else 0.0)
        return text

    def set_role(self, name: str, role: Role) -> None:
        """Give an account another role, from its next request on."""
        with self._database.writing() as connection:
            connection.execute(sa.update(ACCOUNT).where(ACCOUNT.c.name == name).values(role=role))

    def set_password(self, name: str, hashed: str) -> None:
        """Replace the hash of a user's password, and end the user's sessions."""
        self._replace(name, secret=hashed)

    def renew_token(self, account: Account) -> str:
        """Replace a token by one that lives as long from now on, end its sessions, and return its text."""
        text, now_s = TOKEN_PREFIX + secrets.token_urlsafe(32), self._clock()
        expires_s = now_s + account.expires_s - account.made_s if account.expires_s else 0.0
        self._replace(account.name, secret=_digest(text), made_s=now_s, expires_s=expires_s)
        return text

    def remove(self, name: str) -> None:
        """Remove an account and end its sessions."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(ACCOUNT).where(ACCOUNT.c.name == name))
            connection.execute(sa.delete(SESSION).where(SESSION.c.account == name))

    def by_name(self, name: str) -> Account | None:
        """Return an account; None if there is none, or it has expired."""
        return self._found(ACCOUNT.c.name == name)

    def by_token(self, text: str) -> Account | None:
        """Return the account of a token; None if there is none, or it has expired."""
        return self._found(sa.and_(ACCOUNT.c.secret == _digest(text), ACCOUNT.c.kind == "token"))

    def verify(self, name: str, secret: str) -> Verified | None:
        """Return the user whose password this is, or, without a name, the account whose token it is."""
        if name:
            return self.by_password(name, secret)
        account = self.by_token(secret)
        return Verified(account=account, secret=_digest(secret)) if account else None

    def by_password(self, name: str, password: str) -> Verified | None:
        """Return a user whose password this is. An unknown name takes as long as a wrong password."""
        user = sa.and_(ACCOUNT.c.name == name, ACCOUNT.c.kind == "user")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(ACCOUNT).where(user)).first() if _NAME.fullmatch(name) else None
        is_right = len(password) <= PASSWORD_MAX_CHARS and _verifies(row.secret if row else _nobodys_hash(), password)
        return Verified(account=_account(row), secret=row.secret) if row and is_right else None

    def still_has(self, verified: Verified) -> bool:
        """Return whether no reset or removal has come since the account was verified."""
        with self._database.reading() as connection:
            return connection.execute(holding(verified)).first() is not None

    def _found(self, condition: sa.ColumnElement[bool]) -> Account | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(ACCOUNT).where(condition)).first()
        account = _account(row) if row else None
        is_valid = account is not None and (not account.expires_s or self._clock() < account.expires_s)
        return account if is_valid else None

    def _replace(self, name: str, **values: object) -> None:
        with self._database.writing() as connection:
            connection.execute(sa.update(ACCOUNT).where(ACCOUNT.c.name == name).values(values))
            connection.execute(sa.delete(SESSION).where(SESSION.c.account == name))

    def _add(self, name: str, kind: Kind, role: Role, secret: str, *, expires_s: float) -> None:
        row = {"name": name, "kind": kind, "role": role, "secret": secret}
        times = {"made_s": self._clock(), "expires_s": expires_s}
        with self._database.writing() as connection:
            connection.execute(sa.insert(ACCOUNT).values({**row, **times}))


def holding(verified: Verified) -> sa.Select[tuple[str]]:
    """Return the query that finds a verified account as it was verified; nothing after a reset or removal."""
    has_secret = sa.and_(ACCOUNT.c.name == verified.account.name, ACCOUNT.c.secret == verified.secret)
    return sa.select(ACCOUNT.c.name).where(has_secret)


def hash_password(password: str) -> str:
    """Hash a password for the database.

    Raises:
        UsageError: `usage`, when it is too short or too long.
    """
    if not PASSWORD_MIN_CHARS <= len(password) <= PASSWORD_MAX_CHARS:
        hint = f"choose {PASSWORD_MIN_CHARS} to {PASSWORD_MAX_CHARS} characters"
        raise UsageError("usage", f"the password has {len(password)} characters", hint)
    return _hasher().hash(password)


def _verifies(hashed: str, password: str) -> bool:
    try:
        return _hasher().verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1)


@cache
def _nobodys_hash() -> str:
    """Return a hash that no password has: the time of a login doesn't show which names there are."""
    return _hasher().hash(secrets.token_urlsafe())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _account(row: sa.Row[Any]) -> Account:
    return Account(name=row.name, kind=row.kind, role=Role(row.role), made_s=row.made_s, expires_s=row.expires_s)

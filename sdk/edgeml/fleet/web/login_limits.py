"""Limits of failed logins, by address and by account. They are kept in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edgeml_core.errors import OverloadedError
from edgeml_io import http_hosts

#: Seconds in which failures count.
WINDOW_S: Final = 900.0
#: Failures of one address, and of one account from all addresses, until the oldest is over.
PER_ADDRESS_MAX: Final = 10
PER_ACCOUNT_MAX: Final = 20
#: Addresses and accounts that are remembered, the least recent are forgotten.
REMEMBERED_MAX: Final = 10_000
#: Characters that are remembered of an account's name: no account has a longer one, while a form has room for 16 KiB.
NAME_MAX_CHARS: Final = 100


class LoginLimits:
    """The times of failed logins. An attempt counts as failed from its begin, so parallel attempts count, too.

    Args:
        clock: a time in seconds that only grows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def begin(self, address: str, account: str) -> None:
        """Count an attempt.

        Raises:
            OverloadedError: `overloaded`, when the address or the account has failed too often.
        """
        now_s, keys = self._clock(), _keys(address, account)
        for key, most in zip(keys, (PER_ADDRESS_MAX, PER_ACCOUNT_MAX), strict=True):
            recent = [it for it in self._failed.get(key, ()) if now_s - it < WINDOW_S]
            if len(recent) >= most:
                wait_s = int(recent[0] + WINDOW_S - now_s) + 1
                message = f"{len(recent)} logins of this {key[0]} failed within {WINDOW_S / 60:g} minutes"
                raise OverloadedError("overloaded", message, f"try again in {wait_s} s", retry_after_s=wait_s)
        for key in keys:
            self._failed[key] = [it for it in self._failed.get(key, ()) if now_s - it < WINDOW_S] + [now_s]
            self._failed.move_to_end(key)
        while len(self._failed) > REMEMBERED_MAX:
            self._failed.popitem(last=False)

    def succeed(self, address: str, account: str) -> None:
        """Take back the count of an attempt that succeeded."""
        for key in _keys(address, account):
            if times := self._failed.get(key):
                times.pop()


def _keys(address: str, account: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return what is counted: of IPv6 the network, in which a client has any number of addresses."""
    return ("address", http_hosts.address_of(address)), ("account", account[:NAME_MAX_CHARS])

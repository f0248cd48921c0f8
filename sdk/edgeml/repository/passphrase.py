"""Where the passphrase of a key file comes from: EDGEML_KEY_PASSPHRASE, else the person at the terminal.

What is asked for is kept nowhere. Tokens and key services ask for their PINs the same way.
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import Final

from edgeml_core.errors import UsageError

VARIABLE: Final = "EDGEML_KEY_PASSPHRASE"


def given() -> str:
    """The variable's value, empty where it isn't set."""
    return os.environ.get(VARIABLE, "")


def asked(what: str) -> str:
    """The secret that opens `what`.

    Raises:
        UsageError: `repo-invalid`, when the variable isn't set and nobody sits at the terminal.
    """
    if secret := given():
        return secret
    if not sys.stdin.isatty():
        hint = f"set {VARIABLE} to the passphrase that it was made with"
        raise UsageError("repo-invalid", f"{what} is locked, and nobody is here to ask", hint)
    return getpass.getpass(f"Passphrase of {what}: ")


def chosen() -> str:
    """A passphrase for new keys.

    Raises:
        UsageError: `usage`, when the variable isn't set and nobody sits at the terminal, or two entries differ.
    """
    if secret := given():
        return secret
    if not sys.stdin.isatty():
        hint = f"set {VARIABLE}, or leave the keys unencrypted with --no-passphrase"
        raise UsageError("usage", "new keys need a passphrase, and nobody is here to ask", hint)
    first = getpass.getpass("Passphrase for the new keys: ")
    if not first or first != getpass.getpass("The same again: "):
        raise UsageError("usage", "the two passphrases differ, or are empty", "try again; or give --no-passphrase")
    return first

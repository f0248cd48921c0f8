"""The passphrase of a key file: from EDGEML_KEY_PASSPHRASE, else typed at the terminal.

A typed passphrase is not stored. Tokens and key services get their PINs the same way.
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import Final

from edgeml_core.errors import UsageError

VARIABLE: Final = "EDGEML_KEY_PASSPHRASE"


def from_environment() -> str:
    """Read the variable; empty where it isn't set."""
    return os.environ.get(VARIABLE, "")


def ask(name: str) -> str:
    """Get the secret that opens the key `name`.

    Raises:
        UsageError: `repo-invalid`, when the variable isn't set and there is no terminal.
    """
    if secret := from_environment():
        return secret
    if not sys.stdin.isatty():
        hint = f"set {VARIABLE} to the passphrase that the key was made with"
        raise UsageError("repo-invalid", f"{name} is locked, and there is no terminal to ask at", hint)
    return getpass.getpass(f"Passphrase of {name}: ")


def choose() -> str:
    """Get a passphrase for new keys.

    Raises:
        UsageError: `usage`, when the variable isn't set and there is no terminal, or two entries differ.
    """
    if secret := from_environment():
        return secret
    if not sys.stdin.isatty():
        hint = f"set {VARIABLE}, or leave the keys unencrypted with --no-passphrase"
        raise UsageError("usage", "new keys need a passphrase, and there is no terminal to ask at", hint)
    first = getpass.getpass("Passphrase for the new keys: ")
    if not first or first != getpass.getpass("The same again: "):
        raise UsageError(
            "usage", "the two passphrases differ, or are empty", "repeat the command, or give --no-passphrase"
        )
    return first

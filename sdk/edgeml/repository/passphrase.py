"""The passphrase of a key file: from EDGEML_KEY_PASSPHRASE or the file in EDGEML_KEY_PASSPHRASE_FILE, else typed.

A typed passphrase is not stored. Tokens and key services get their PINs the same way.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Final

from edgeml_core.errors import UsageError
from edgeml_io import password_file

VARIABLE: Final = "EDGEML_KEY_PASSPHRASE"
FILE_VARIABLE: Final = f"{VARIABLE}_FILE"


def from_environment() -> str:
    """Read the variable, or the file that the other one names; empty where neither is set.

    Raises:
        UsageError: `usage`, when both are set, or the file can't be used.
    """
    secret, file = os.environ.get(VARIABLE, ""), os.environ.get(FILE_VARIABLE, "")
    if secret and file:
        raise UsageError("usage", f"{VARIABLE} and {FILE_VARIABLE} are both set", "unset one of them")
    return password_file.read(Path(file)) if file else secret


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

"""The two signing keys of a repository: ed25519 in PKCS8 PEM files, mode 0600.

The release key signs what exists and what is trusted; it may lie offline and be put back to publish. The fleet key
signs which device runs what, and freshness; it is where `edgeml fleet serve` runs. Both are encrypted when
EDGEML_KEY_PASSPHRASE is set while they are made. Which key signs which role is `signed`'s business.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from edgeml.repository import durable
from edgeml_core.errors import UsageError

RELEASE_KEY: Final = "release"
FLEET_KEY: Final = "fleet"
UNLOCK_VARIABLE: Final = "EDGEML_KEY_PASSPHRASE"
_PRIVATE_FOLDER_MODE: Final = 0o700
_PRIVATE_FILE_MODE: Final = 0o600


class Keys:
    """The keys in one folder, each read when it is first needed: the release key may be absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signers: dict[str, CryptoSigner] = {}

    def create(self) -> None:
        """Make both keys, in a folder that only its owner may enter."""
        self._folder.mkdir(mode=_PRIVATE_FOLDER_MODE)
        passphrase = _passphrase()
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        for name in (RELEASE_KEY, FLEET_KEY):
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
            durable.write(self._path(name), pem, mode=_PRIVATE_FILE_MODE)
            self._signers[name] = CryptoSigner(key)

    def has(self, name: str) -> bool:
        """Whether the key is here, so that what it signs can be signed anew."""
        return self._path(name).is_file()

    def signer(self, name: str) -> CryptoSigner:
        """The key `name`, ready to sign.

        Raises:
            UsageError: `repo-invalid`, when it is absent, encrypted with another passphrase or no ed25519 key.
        """
        if name not in self._signers:
            self._signers[name] = self._load(name)
        return self._signers[name]

    def _load(self, name: str) -> CryptoSigner:
        path, passphrase = self._path(name), _passphrase()
        try:
            key = load_pem_private_key(path.read_bytes(), passphrase)
            return CryptoSigner(key)
        except OSError as error:
            hint = f"put the {name} key back as {path}"
            raise UsageError("repo-invalid", f"the {name} key can't be read", hint) from error
        except (TypeError, ValueError) as error:
            # `cryptography` says TypeError for a passphrase too many or too few.
            hint = f"set {UNLOCK_VARIABLE} to the passphrase that the key was made with, or unset it"
            raise UsageError("repo-invalid", f"the {name} key {path} can't be opened: {error}", hint) from error

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"


def _passphrase() -> bytes | None:
    return os.environ.get(UNLOCK_VARIABLE, "").encode() or None

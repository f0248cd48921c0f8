"""The signing keys in a folder: two groups of them, `release` and `fleet`, each of one key or several.

The release keys sign releases and the list of trusted keys; they may lie offline and be put back to publish. The fleet
keys sign deployments and timestamps; they are on the host that runs `edgeml fleet serve`.

A key is an ed25519 key in a PKCS8 PEM file, `GROUP.pem` or `GROUP-ID.pem`, mode 0600. A key on a token or in a key
service has a file `GROUP-ID.uri` with the URI of its signer. securesystemslib lists the schemes.

The signed root names the trusted keys and the number that must sign. `signed` maps groups to roles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from securesystemslib.signer import CryptoSigner, Key, Signer

from edgeml.repository import passphrase
from edgeml_core.errors import UsageError
from edgeml_io import files

RELEASE_KEY: Final = "release"
FLEET_KEY: Final = "fleet"
GROUPS: Final = (RELEASE_KEY, FLEET_KEY)
#: Folder of keys that devices trust no longer: an operator decides when to delete them.
RETIRED_FOLDER: Final = "retired"
#: Characters of a key's id in the name of its file: enough to tell apart the keys of one group.
_ID_CHARS: Final = 8
_PRIVATE_FOLDER_MODE: Final = 0o700
_PRIVATE_FILE_MODE: Final = 0o600


class Keys:
    """The keys in one folder. Each is opened when it is first needed; any may be absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._signers: dict[Path, Signer] = {}

    def create(self, secret: str) -> dict[str, Key]:
        """Make a key for each group, in a folder that only its owner may enter; an empty `secret` encrypts nothing."""
        self.folder.mkdir(mode=_PRIVATE_FOLDER_MODE)
        return {
            group: self._write(self.folder / f"{group}.pem", Ed25519PrivateKey.generate(), secret) for group in GROUPS
        }

    def make(self, group: str, secret: str) -> Key:
        """Make one more key."""
        private = Ed25519PrivateKey.generate()
        named = CryptoSigner(private).public_key.keyid[:_ID_CHARS]
        return self._write(self.folder / f"{group}-{named}.pem", private, secret)

    def refer(self, group: str, uri: str, public: Key) -> None:
        """Write the URI of a key that is on a token or in a key service."""
        path = self.folder / f"{group}-{public.keyid[:_ID_CHARS]}.uri"
        files.write(path, f"{uri}\n".encode(), mode=_PRIVATE_FILE_MODE)

    def count(self, group: str) -> int:
        """Count the keys of a group in the folder."""
        return len(list(self._files(group)))

    def signers(self, group: str, trusted: Mapping[str, Key]) -> list[Signer]:
        """Open the group's keys in the folder that are among `trusted`, which is by key id.

        Raises:
            UsageError: `repo-invalid`, when one can't be opened.
        """
        found = {}
        for path in self._files(group):
            matching = [key for keyid, key in trusted.items() if keyid.startswith(_named(path))]
            if matching and path not in self._signers:
                self._signers[path] = _referred(path, matching[0]) if path.suffix == ".uri" else _opened(path)
            signer = self._signers.get(path)
            if matching and signer is not None and signer.public_key.keyid in trusted:
                found[signer.public_key.keyid] = signer
        return list(found.values())

    def retire(self, group: str, keyids: Collection[str]) -> None:
        """Move these keys to the folder of retired keys."""
        for path in list(self._files(group)):
            signer = self._signers.get(path)
            known = signer.public_key.keyid if signer else _named(path)
            if known and any(keyid.startswith(known) for keyid in keyids):
                retired = self.folder / RETIRED_FOLDER
                retired.mkdir(mode=_PRIVATE_FOLDER_MODE, exist_ok=True)
                path.rename(retired / path.name)
                self._signers.pop(path, None)

    def _write(self, path: Path, private: Ed25519PrivateKey, secret: str) -> Key:
        encryption = BestAvailableEncryption(secret.encode()) if secret else NoEncryption()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        files.write(path, pem, mode=_PRIVATE_FILE_MODE)
        self._signers[path] = CryptoSigner(private)
        return self._signers[path].public_key

    def _files(self, group: str) -> Iterator[Path]:
        for path in sorted(self.folder.glob(f"{group}*")):
            if path.suffix in {".pem", ".uri"} and path.stem.partition("-")[0] == group:
                yield path


def _named(path: Path) -> str:
    """Find the part of the key's id in the name of its file; empty for a group's first key."""
    return path.stem.partition("-")[2]


def _opened(path: Path) -> Signer:
    try:
        data = path.read_bytes()
        secret = passphrase.ask(str(path)).encode() if b"ENCRYPTED" in data else None
        return CryptoSigner(load_pem_private_key(data, secret))
    except OSError as error:
        raise UsageError("repo-invalid", f"the key {path} can't be read", "check its owner and its disk") from error
    except (TypeError, ValueError) as error:
        hint = f"set {passphrase.VARIABLE} to the passphrase that the key was made with"
        raise UsageError("repo-invalid", f"the key {path} can't be opened: {error}", hint) from error


def _referred(path: Path, public: Key) -> Signer:
    try:
        uri = path.read_text().strip()
        return Signer.from_priv_key_uri(uri, public, passphrase.ask)
    except Exception as error:
        # Each scheme raises errors of its own library, token or service.
        hint = "check the URI in that file, plug in its token or start its service, and install its library"
        raise UsageError("repo-invalid", f"the key that {path} names can't be opened: {error}", hint) from error

"""Groups of devices that share a key, for models that only they may read.

A group's key is REPO/keys/groups/GROUP.key, made when the group is first named; `enroll` copies it to devices. The
group of a release is signed beside its manifest. A chunk is encrypted when it is sent; the repository's own chunks are
not encrypted.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from edgeml_core import names, sealing
from edgeml_core.errors import UsageError
from edgeml_core.sealing import Seal
from edgeml_io import files

FOLDER: Final = "groups"
SUFFIX: Final = ".key"
_FOLDER_MODE: Final = 0o700
_KEY_MODE: Final = 0o600


class Groups:
    """The groups' keys in a folder."""

    def __init__(self, keys: Path) -> None:
        self._folder = keys / FOLDER

    def make(self, group: str) -> str:
        """Get the key of a group, in hex; it is made if there is none yet.

        Raises:
            UsageError: `usage`, when `group` is no name; `repo-invalid`, when the key can't be read or written.
        """
        path = self._path(names.require_name(group, "group"))
        try:
            if not path.exists():
                self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
                files.write(path, secrets.token_hex(sealing.KEY_BYTES).encode(), mode=_KEY_MODE)
            return path.read_text()
        except OSError as error:
            hint = "check the owner of the repository's keys folder"
            raise UsageError(
                "repo-invalid", f"the key of group {group!r} can't be read or written: {error}", hint
            ) from error

    def seal(self, group: str) -> Seal:
        """Load the cipher of a group.

        Raises:
            UsageError: `repo-invalid`, when it is missing or damaged.
        """
        path = self._path(group)
        try:
            return Seal(bytes.fromhex(path.read_text()))
        except (OSError, ValueError) as error:
            hint = f"restore {path.name}: without it no chunk can be encrypted for the group"
            raise UsageError("repo-invalid", f"the key of group {group!r} can't be read from {path}", hint) from error

    def _path(self, group: str) -> Path:
        return self._folder / f"{group}{SUFFIX}"

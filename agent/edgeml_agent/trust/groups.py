"""The keys of the groups that this device belongs to, a file each, as `edgeml device enroll --group` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeml_core.errors import DeviceError
from edgeml_core.sealing import Seal

SUFFIX: Final = ".key"


class GroupKeys:
    """Group keys in a folder, read when a release needs one: a key added later is found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seal(self, group: str) -> Seal:
        """Return the cipher of a group.

        Raises:
            DeviceError: `group-key-missing`, also when its file is damaged.
        """
        path = self._folder / f"{group}{SUFFIX}"
        try:
            return Seal(bytes.fromhex(path.read_text()))
        except (OSError, ValueError) as error:
            hint = f"copy keys/groups/{path.name} of the repository to {self._folder} on this device"
            raise DeviceError("group-key-missing", f"the key of group {group!r} can't be read", hint) from error

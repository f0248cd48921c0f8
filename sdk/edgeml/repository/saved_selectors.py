"""Selectors with names, in a file of the repository: `@barns` stands for one where an operator selects devices.

A deployment is signed with the selector itself. So a name that is changed later changes no deployment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import layout
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import decoding, names, selectors
from edgeml_core.errors import UsageError
from edgeml_core.selectors import Selector
from edgeml_io import files

SELECTORS_FILE: Final = "selectors.json"
#: A text that begins so names a saved selector.
MARK: Final = "@"


def saved(repository: RepositoryFolder) -> dict[str, str]:
    """Return the saved selectors by name.

    Raises:
        UsageError: `repo-invalid`, when their file can't be read.
    """
    path = repository.folder / SELECTORS_FILE
    try:
        return decoding.from_json(path.read_bytes(), dict[str, str]) if path.exists() else {}
    except (OSError, msgspec.MsgspecError) as error:
        hint = "restore the file, or remove it and save the selectors again"
        raise UsageError("repo-invalid", f"{path} can't be read: {error}", hint) from error


def save(repo: Path, name: str, text: str | None, *, now: datetime | None = None) -> dict[str, str]:
    """Save a selector under a name, or remove it.

    Args:
        repo: the repository's folder.
        name: as other names.
        text: the selector; None removes it.
        now: the time of the audit log's entry; by default the clock's.

    Returns:
        All saved selectors.

    Raises:
        UsageError: `usage`, for a bad name or selector, or when there is none to remove; `repo-invalid`.
    """
    names.require_name(name, "selector")
    repository = layout.opened(repo)
    with repository.locked():
        kept = saved(repository)
        if text is None:
            _find(kept, name)
            del kept[name]
        else:
            kept[name] = str(expand(repository, [text]))
        act = "remove selector" if text is None else "save selector"
        repository.audit.append(act, name, {"selector": kept.get(name)}, now=now or layout.utc_now())
        files.write(repository.folder / SELECTORS_FILE, msgspec.json.encode(kept, order="sorted"))
    return kept


def expand(repository: RepositoryFolder, texts: Iterable[str], *, devices: Iterable[str] = ()) -> Selector:
    """Join selectors and the names of saved ones, which must all hold, and the ids of devices, of which one must be it.

    Raises:
        UsageError: `usage`, when one is malformed or not saved, or all together are above the limits.
    """
    kept = saved(repository)
    read = [_find(kept, it.removeprefix(MARK)) if it.startswith(MARK) else it for it in map(str.strip, texts)]
    return selectors.parse_all(read, devices=devices)


def _find(kept: dict[str, str], name: str) -> str:
    if name not in kept:
        close = difflib.get_close_matches(name, kept) or sorted(kept)
        hint = f"use one of {', '.join(MARK + it for it in close)}" if close else "save it with `edgeml fleet selector`"
        raise UsageError("usage", f"no selector {name!r} is saved", hint)
    return kept[name]

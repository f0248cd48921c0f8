"""The grammar of names: models, versions, devices and labels. No lookups, no defaults.

Names are used in file names, MQTT topics and URLs, so the grammar is the intersection of what those take unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from edgeml_core.errors import UsageError

#: Characters of a name, as in a DNS label, and of a version.
NAME_MAX_CHARS: Final = 63
VERSION_MAX_CHARS: Final = 40
#: The label that selectors find in every device: its own id.
DEVICE_LABEL: Final = "device"

#: Names may have `-`. Versions have none, so that a bundle's file name splits in one way only.
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_VERSION: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z._]*[0-9A-Za-z])?")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def is_name(text: str) -> bool:
    """Return whether `text` can name a model, target, device, fleet or label."""
    return len(text) <= NAME_MAX_CHARS and _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Return whether `text` can be a release's version: letters, digits, `.`, `_`."""
    return len(text) <= VERSION_MAX_CHARS and _VERSION.fullmatch(text) is not None


def require_name(text: str, what: str) -> str:
    """Return `text` if it is a name.

    Raises:
        UsageError: `usage`, when it isn't.
    """
    if not is_name(text):
        raise UsageError(
            "usage",
            f"{what} {text!r} is not a valid name",
            f"use 1 to {NAME_MAX_CHARS} of a-z, 0-9, '-' and '_', beginning and ending with a letter or digit",
        )
    return text


def require_version(text: str) -> str:
    """Return `text` if it is a version.

    Raises:
        UsageError: `usage`, when it isn't.
    """
    if not is_version(text):
        raise UsageError(
            "usage",
            f"version {text!r} is not valid",
            f"use 1 to {VERSION_MAX_CHARS} letters, digits, '.' and '_', such as 1.2.0",
        )
    return text


def bundle_stem(name: str, version: str, target: str, file_format: str) -> str:
    """Return the file name, without suffix, of one release for one target: `NAME-VERSION-TARGET-FORMAT`."""
    return f"{name}-{version}-{target}-{file_format}"


def is_label_value(text: str) -> bool:
    """Return whether `text` can be a label's value."""
    return len(text) <= NAME_MAX_CHARS and _LABEL_VALUE.fullmatch(text) is not None


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Parse labels from `k=v` strings; each string may have several, separated by commas.

    Raises:
        UsageError: `usage`, for a pair without `=`, a bad key or value, or a key given twice.
    """
    labels: dict[str, str] = {}
    for pair in (part.strip() for text in pairs for part in text.split(",") if part.strip()):
        key, equals, value = pair.partition("=")
        if not equals or not is_name(key) or not is_label_value(value):
            raise UsageError("usage", f"label {pair!r} is not of the form key=value", "write it like site=farm-7")
        if key == DEVICE_LABEL:
            raise UsageError("usage", f"label {pair!r} would replace the device's id", "use another key")
        if labels.setdefault(key, value) != value:
            raise UsageError("usage", f"label {key!r} is given two values", "give each key once")
    return labels


def as_text(labels: Mapping[str, str]) -> str:
    """Write labels as `parse_labels` reads them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())

"""What the agent says of itself: one line an event on stderr, `time level event key=value ...`.

Lines are bounded, since they end up on SD cards; values are quoted, so that nothing received can forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

from edgeml_core.errors import EdgemlError

VALUE_MAX_CHARS: Final = 300
LINE_MAX_CHARS: Final = 1000
_LOGGER: Final = logging.getLogger("edgeml_agent")


def set_up(*, verbose: bool = False) -> None:
    """Send events to stderr, and other libraries' warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)


def event(what: str, **fields: object) -> None:
    """Say that something happened; `fields` are its particulars."""
    _LOGGER.info(_text(what, fields))


def failure(what: str, error: EdgemlError, **fields: object) -> None:
    """Say that something failed, with its code and remedy."""
    _LOGGER.warning(_text(what, fields | {"code": error.code, "message": error.message, "hint": error.hint}))


def defect(what: str, error: Exception, **fields: object) -> None:
    """Say that the agent itself is at fault, with the traceback."""
    _LOGGER.error(_text(what, fields), exc_info=error)


def _text(what: str, fields: dict[str, object]) -> str:
    shown = (f"{key}={json.dumps(str(value)[:VALUE_MAX_CHARS])}" for key, value in fields.items() if value != "")
    return " ".join((what, *shown))[:LINE_MAX_CHARS]


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

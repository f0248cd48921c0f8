"""The agent's log: each event is a line on stderr, `time level event key=value ...`.

Lines have a maximum length, since they end up on SD cards. Values are quoted, so that received text can't forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

from edgeml_core.errors import EdgemlError

#: Characters of one value: an error message fits, a stack trace sent by a peer does not.
VALUE_MAX_CHARS: Final = 300
#: Characters of one line; journald and syslog take it whole.
LINE_MAX_CHARS: Final = 1000
_LOGGER: Final = logging.getLogger("edgeml_agent")


def set_up(*, verbose: bool = False) -> None:
    """Send the agent's events, and other libraries' warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)


def event(name: str, **fields: object) -> None:
    """Log an event with its `fields`."""
    _LOGGER.info(_text(name, fields))


def failure(name: str, error: EdgemlError, **fields: object) -> None:
    """Log a failure with its code, message and hint."""
    _LOGGER.warning(_text(name, fields | {"code": error.code, "message": error.message, "hint": error.hint}))


def defect(name: str, error: Exception, **fields: object) -> None:
    """Log a defect of the agent itself, with the traceback."""
    _LOGGER.error(_text(name, fields), exc_info=error)


def _text(name: str, fields: dict[str, object]) -> str:
    pairs = (f"{key}={json.dumps(str(value)[:VALUE_MAX_CHARS])}" for key, value in fields.items() if value != "")
    return " ".join((name, *pairs))[:LINE_MAX_CHARS]


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

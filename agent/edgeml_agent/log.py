"""The agent's log: each event is a line on stderr, `time level event key=value ...`.

Lines have a maximum length, since they end up on SD cards. Values are quoted, so that received text can't forge a line.
Secrets that `hide` was given, and text of the form of a password or token, are masked. The newest lines are kept for
an operator's call.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import deque
from typing import Final

from edgeml_core.calls import LINES_MAX
from edgeml_core.errors import EdgemlError

#: Characters of one value: an error message fits, a stack trace sent by a peer does not.
VALUE_MAX_CHARS: Final = 300
#: Characters of one line; journald and syslog take it whole.
LINE_MAX_CHARS: Final = 1000
#: Characters of one line that is kept: the end of a traceback, which names the error.
KEPT_MAX_CHARS: Final = 2000
#: Characters from which a hidden secret is masked: shorter ones are parts of words.
SECRET_MIN_CHARS: Final = 6
MASK: Final = "***"
#: The password of an address, the token of a header, and values that are named as a secret.
_SECRETS: Final = re.compile(
    r"(?<=://)[^\s/@\"']*:[^\s/@\"']*(?=@)"
    r"|(?<=bearer )[^\s\"',]+"
    r"|(?<=basic )[^\s\"',]+"
    r"|(?<![a-z])(?P<name>(?:password|passphrase|token|secret|api_?key)\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"',\\]+",
    re.IGNORECASE,
)
_hidden: set[str] = set()
_newest: deque[str] = deque(maxlen=LINES_MAX)
_LOGGER: Final = logging.getLogger("edgeml_agent")


def set_up(*, verbose: bool = False) -> None:
    """Send the agent's events, and other libraries' warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    kept = _Kept()
    kept.setFormatter(handler.formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler, kept], force=True)
    _LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)


def hide(secret: str | None) -> None:
    """Mask a secret in all lines from now on, if it is long enough to be recognized."""
    if secret and len(secret) >= SECRET_MIN_CHARS:
        _hidden.add(secret)


def newest(lines: int, max_bytes: int) -> tuple[str, ...]:
    """Return the newest lines, the oldest of them first; fewer where they exceed `max_bytes` of JSON."""
    found: list[str] = []
    for line in reversed(tuple(_newest)):
        max_bytes -= len(json.dumps(line)) + 1
        if len(found) == lines or max_bytes < 0:
            break
        found.append(line)
    return tuple(reversed(found))


def masked(text: str) -> str:
    """Mask the secrets in a text."""
    for secret in _hidden:
        text = text.replace(secret, MASK)
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}{MASK}", text)


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
    pairs = (
        f"{key}={json.dumps(masked(str(value))[:VALUE_MAX_CHARS])}" for key, value in fields.items() if value != ""
    )
    return " ".join((name, *pairs))[:LINE_MAX_CHARS]


class _Kept(logging.Handler):
    """Keep the newest lines; one that repeats a traceback keeps its end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        line = self.format(record)
        _newest.append(line if len(line) <= KEPT_MAX_CHARS else f"...{line[3 - KEPT_MAX_CHARS :]}")


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format a line, without secrets."""
        return masked(super().format(record))

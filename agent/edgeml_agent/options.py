"""Types of agent.toml's options. Each names its parser, which takes TOML's value or the environment's text.

A parser raises ValueError, or an EdgemlError, whose message says which values are valid. No file is opened here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from edgeml_core import broker, daily_window, names
from edgeml_core.broker import BrokerUrl
from edgeml_core.daily_window import DailyWindow

Parser = Callable[[object], object]
#: The largest TCP port.
_PORT_MAX: Final = 65_535


class HttpAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The address that the server binds; port 0 takes a free one."""

    host: str
    port: int


def _text(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("must be a text that is not empty")
    return given


def _name(given: object) -> str:
    return names.require_name(_text(given), "it")


def _labels(given: object) -> dict[str, str]:
    if isinstance(given, dict):
        return names.parse_labels(f"{key}={value}" for key, value in given.items())
    return names.parse_labels([given if isinstance(given, str) else _text(given)])


def _url(given: object) -> BrokerUrl:
    return broker.parse(_text(given))


def _http_url(given: object) -> SplitResult:
    text = _text(given)
    parts = urlsplit(text)
    is_plain = text.isascii() and text.isprintable() and " " not in text and "@" not in parts.netloc
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or not is_plain:
        raise ValueError("must be https://HOST[:PORT][/PATH], or http://")
    if parts.query or parts.fragment:
        raise ValueError("must have no query")
    return parts


def _path(given: object) -> Path:
    return Path(_text(given))


def _count(given: object) -> int:
    count = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if not isinstance(count, int) or isinstance(count, bool) or count <= 0:
        raise ValueError("must be a whole number above 0")
    return count


def _size(given: object) -> int:
    try:
        return _count(given)
    except ValueError as error:
        raise ValueError("must be a whole number of bytes above 0") from error


def _fraction(given: object) -> float:
    fraction = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else -1.0
    if not 0 <= fraction <= 1:
        raise ValueError("must be a fraction between 0 and 1, for example 0.1")
    return fraction


def _flag(given: object) -> bool:
    if given in (True, "true"):
        return True
    if given in (False, "false"):
        return False
    raise ValueError("must be true or false")


def _topic(given: object) -> str:
    topic = _text(given)
    if not topic.isprintable() or {"+", "#"} & {*topic} or "" in topic.split("/"):
        raise ValueError("must be a topic without wildcards, for example homeassistant")
    return topic


def _window(given: object) -> DailyWindow:
    return daily_window.parse(_text(given))


def _address(given: object) -> HttpAddress:
    host, colon, port = _text(given).rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _PORT_MAX:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080")
    return HttpAddress(host=host.removeprefix("[").removesuffix("]"), port=int(port))


Name = Annotated[str, _name]
Labels = Annotated[dict[str, str], _labels]
Url = Annotated[BrokerUrl, _url]
HttpUrl = Annotated[SplitResult, _http_url]
#: Relative paths are relative to the file.
FilePath = Annotated[Path, _path]
Count = Annotated[int, _count]
#: Whole seconds.
Seconds = Annotated[float, _count]
SizeBytes = Annotated[int, _size]
Fraction = Annotated[float, _fraction]
Flag = Annotated[bool, _flag]
Topic = Annotated[str, _topic]
Window = Annotated[DailyWindow, _window]
Address = Annotated[HttpAddress, _address]

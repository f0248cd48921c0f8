"""`agent.toml`, read once at the start: the TOML as written, over it the environment, then checked `Settings`.

Each key can come from the environment as `EDGEML_SECTION_KEY`. All problems are named at once. Relative paths are
relative to the file, so a device's folder can be moved. Nothing is opened here but the file itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeml_agent import schedule
from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.schedule import Hours
from edgeml_core import broker, names
from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import EdgemlError, UsageError

ENVIRONMENT_PREFIX: Final = "EDGEML_"
DEFAULT_FLEET: Final = "edge"
DEFAULT_MAX_BYTES: Final = 8 * 1024**3
DEFAULT_RELAY_BYTES: Final = 2 * 1024**3
DEFAULT_HTTP: Final = "127.0.0.1:8080"
_PORT_MAX: Final = 65_535
_SHOWN_MAX: Final = 20


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who this device is. `labels` are for people: what counts are the labels that the fleet document signs."""

    id: str
    fleet: str
    labels: dict[str, str]


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The broker, and the files of a TLS connection to it."""

    url: BrokerUrl
    ca: Path | None
    cert: Path | None
    key: Path | None


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where releases lie, and how many bytes they may take together."""

    dir: Path
    max_bytes: int


class HttpAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens; port 0 takes a free one."""

    host: str
    port: int


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP server, over TLS where it has `cert` and `key`, and whether models can be asked over MQTT, too.

    Over MQTT they are asked by whom the broker lets. `tune` is whether to find out how each release runs best
    here, `shadow` whether a new version is compared with the one that serves before it takes its place.
    """

    http: HttpAddress
    token_file: Path | None
    cert: Path | None = None
    key: Path | None = None
    mqtt: bool = False
    tune: bool = True
    shadow: bool = False


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of the day, local time: when releases may begin to serve, and when they may be fetched. None is always.

    And how many bytes of chunks may come in a second, on the average; None is as many as can.
    """

    window: Hours | None
    fetch_window: Hours | None
    max_bytes_per_s: int | None = None


class HomeAssistantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The topic below which Home Assistant looks for sensors; None is for those who have none."""

    prefix: str | None


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The broker of the site that this device relays to, and how many bytes the cache may take."""

    broker: BrokerSettings
    max_bytes: int


class TrustSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The folders with the trust anchors, `releases.root.json` and `fleet.root.json`, and with keys of groups."""

    root: Path
    groups: Path


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `agent.toml`, checked. `shadow` is the rule by which versions are compared, if `serve.shadow` is set."""

    device: DeviceSettings
    broker: BrokerSettings
    store: StoreSettings
    serve: ServeSettings
    shadow: ShadowPolicy
    update: UpdateSettings
    trust: TrustSettings
    relay: RelaySettings | None
    homeassistant: HomeAssistantSettings


_RULE: Final = ShadowPolicy()
_Sections = dict[str, dict[str, object]]
_Parser = Callable[[object, Path], object]


class _Key(msgspec.Struct, frozen=True):
    parse: _Parser
    default: object = None
    required: bool = False


def load(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in the file at `path`, overlaid by `environment`.

    Raises:
        UsageError: `config-invalid`, naming every problem found.
    """
    written = _read(path)
    problems = list(_unknown(written))
    merged = _overlay(written, environment)
    folder, values = path.absolute().parent, {}
    for section, keys in _KEYS.items():
        values[section] = {
            name: _value(key, merged[section].get(name), f"{section}.{name}", folder, problems)
            for name, key in keys.items()
        }
    problems += _apart(values)
    if problems:
        shown = "; ".join(problems[:_SHOWN_MAX])
        raise UsageError("config-invalid", f"{path} has {len(problems)} problem(s): {shown}", "mend them and try again")
    return _settings(values)


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "`edgeml device enroll` writes an agent.toml; name it with --config"
        raise UsageError("config-invalid", f"{path} can't be read: {error}", hint) from error


def _unknown(written: Mapping[str, object]) -> Iterator[str]:
    for section, content in written.items():
        if section not in _KEYS:
            yield f"there is no section [{section}]"
        elif not isinstance(content, dict):
            yield f"{section} is not a section"
        else:
            yield from (f"[{section}] has no key {key!r}" for key in content if key not in _KEYS[section])


def _overlay(written: Mapping[str, object], environment: Mapping[str, str]) -> _Sections:
    merged: _Sections = {}
    for section, keys in _KEYS.items():
        content = written.get(section)
        merged[section] = dict(content) if isinstance(content, dict) else {}
        for key in keys:
            variable = f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()
            if variable in environment:
                merged[section][key] = environment[variable]
    return merged


def _value(key: _Key, given: object, name: str, folder: Path, problems: list[str]) -> object:
    if given is None:
        if key.required:
            problems.append(f"{name} is missing")
            return None
        given = key.default
    try:
        return None if given is None else key.parse(given, folder)
    except (EdgemlError, ValueError) as error:
        problems.append(f"{name}: {error}")
        return None


def _apart(values: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is missing beside what is there."""
    serve = values["serve"]
    if values["homeassistant"]["prefix"] and serve["mqtt"] is False:
        yield "homeassistant.prefix: a sensor shows what is answered over MQTT, which serve.mqtt is for"
    if (serve["cert"] is None) != (serve["key"] is None):
        yield "serve.cert and serve.key: TLS takes both"


def _settings(values: dict[str, dict[str, Any]]) -> Settings:
    return Settings(
        device=DeviceSettings(**values["device"]),
        broker=BrokerSettings(**values["broker"]),
        store=StoreSettings(**values["store"]),
        serve=ServeSettings(**values["serve"]),
        shadow=ShadowPolicy(**values["shadow"]),
        update=UpdateSettings(**values["update"]),
        trust=TrustSettings(**values["trust"]),
        relay=_relay(values["relay"]),
        homeassistant=HomeAssistantSettings(**values["homeassistant"]),
    )


def _relay(values: dict[str, Any]) -> RelaySettings | None:
    max_bytes = values.pop("max_bytes")
    return RelaySettings(broker=BrokerSettings(**values), max_bytes=max_bytes) if values["url"] else None


def _text(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("must be a text that is not empty")
    return given


def _name(given: object, _: Path) -> str:
    return names.require_name(_text(given), "it")


def _labels(given: object, _: Path) -> dict[str, str]:
    if isinstance(given, dict):
        return names.parse_labels(f"{key}={value}" for key, value in given.items())
    return names.parse_labels([given]) if isinstance(given, str) else names.parse_labels([_text(given)])


def _url(given: object, _: Path) -> BrokerUrl:
    return broker.parse(_text(given))


def _path(given: object, folder: Path) -> Path:
    return folder / _text(given)


def _count(given: object, _: Path) -> int:
    count = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if not isinstance(count, int) or isinstance(count, bool) or count <= 0:
        raise ValueError("must be a whole number above 0")
    return count


def _size(given: object, folder: Path) -> int:
    try:
        return _count(given, folder)
    except ValueError as error:
        raise ValueError("must be a whole number of bytes above 0") from error


def _share(given: object, _: Path) -> float:
    share = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else -1.0
    if not 0 <= share <= 1:
        raise ValueError("must be a share of 1, for example 0.1")
    return share


def _flag(given: object, _: Path) -> bool:
    if given in (True, "true"):
        return True
    if given in (False, "false"):
        return False
    raise ValueError("must be true or false")


def _topic(given: object, _: Path) -> str:
    topic = _text(given)
    if not topic.isprintable() or {"+", "#"} & {*topic} or "" in topic.split("/"):
        raise ValueError("must be a topic without wildcards, for example homeassistant")
    return topic


def _hours(given: object, _: Path) -> Hours:
    return schedule.parse(_text(given))


def _address(given: object, _: Path) -> HttpAddress:
    host, colon, port = _text(given).rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _PORT_MAX:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080")
    return HttpAddress(host=host.removeprefix("[").removesuffix("]"), port=int(port))


_KEYS: Final[dict[str, dict[str, _Key]]] = {
    "device": {
        "id": _Key(_name, required=True),
        "fleet": _Key(_name, DEFAULT_FLEET),
        "labels": _Key(_labels, {}),
    },
    "broker": {"url": _Key(_url, required=True), "ca": _Key(_path), "cert": _Key(_path), "key": _Key(_path)},
    "store": {"dir": _Key(_path, "store"), "max_bytes": _Key(_size, DEFAULT_MAX_BYTES)},
    "serve": {
        "http": _Key(_address, DEFAULT_HTTP),
        "token_file": _Key(_path),
        "cert": _Key(_path),
        "key": _Key(_path),
        "mqtt": _Key(_flag, "false"),
        "tune": _Key(_flag, "true"),
        "shadow": _Key(_flag, "false"),
    },
    "shadow": {
        "requests": _Key(_count, _RULE.requests),
        "max_s": _Key(_count, int(_RULE.max_s)),
        "max_disagreement": _Key(_share, _RULE.max_disagreement),
        "canary": _Key(_share, _RULE.canary),
    },
    "update": {"window": _Key(_hours), "fetch_window": _Key(_hours), "max_bytes_per_s": _Key(_size)},
    "trust": {"root": _Key(_path, "trust"), "groups": _Key(_path, "groups")},
    "relay": {
        "url": _Key(_url),
        "ca": _Key(_path),
        "cert": _Key(_path),
        "key": _Key(_path),
        "max_bytes": _Key(_size, DEFAULT_RELAY_BYTES),
    },
    "homeassistant": {"prefix": _Key(_topic)},
}

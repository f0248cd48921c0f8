"""`agent.toml`, read once at the start: the TOML as written, overlaid by the environment, then checked `Settings`.

The fields of the structs are the options: their annotations name the parsers, their defaults the defaults. Each option
can come from the environment as `EDGEML_SECTION_KEY`. All problems are reported at once. Relative paths are relative to
the file, so that a device's folder can be moved. Only the file itself is opened here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec

from edgeml_agent.options import (
    Address,
    FilePath,
    Flag,
    HttpAddress,
    HttpUrl,
    Labels,
    Name,
    Parser,
    SizeBytes,
    Topic,
    Url,
    Window,
)
from edgeml_agent.ports import ShadowPolicy
from edgeml_core.errors import EdgemlError, UsageError

ENVIRONMENT_PREFIX: Final = "EDGEML_"
#: Problems in one error message.
_SHOWN_MAX: Final = 20


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The device's identity. `labels` are for people only: those of the device's signed record decide."""

    id: Name
    fleet: Name = "edge"
    labels: Labels = {}


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The broker, the file with the password of the URL's user, and the files of a TLS connection to it."""

    url: Url
    password_file: FilePath | None = None
    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of the releases, and the bytes that they may take together."""

    dir: FilePath = Path("store")
    max_bytes: SizeBytes = 8 * 1024**3


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP server, with TLS if it has `cert` and `key`, and the inference API over MQTT.

    The broker decides who may send requests over MQTT. `tune` finds out how each release runs best on this device.
    `shadow` compares a new version with the serving one before activation.
    """

    http: Address = HttpAddress(host="127.0.0.1", port=8080)
    token_file: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None
    mqtt: Flag = False
    tune: Flag = True
    shadow: Flag = False


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Daily windows in local time for activations and for fetches; None is always.

    `max_bytes_per_s` limits received chunks on average; None is unlimited.
    """

    window: Window | None = None
    fetch_window: Window | None = None
    max_bytes_per_s: SizeBytes | None = None


class FetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The server from which chunks come first, and its authority; without one they come over the broker."""

    http: HttpUrl | None = None
    ca: FilePath | None = None


class HomeAssistantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The topic below which Home Assistant looks for sensors; None publishes no sensors."""

    prefix: Topic | None = None


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The broker of the site that this device relays to, and the bytes that the cache may take."""

    broker: BrokerSettings
    max_bytes: SizeBytes = 2 * 1024**3


class TrustSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The folders of the trust anchors, `releases.root.json` and `fleet.root.json`, and of group keys."""

    root: FilePath = Path("trust")
    groups: FilePath = Path("groups")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `agent.toml`, checked: a field for each section. `shadow` applies if `serve.shadow` is set."""

    device: DeviceSettings
    broker: BrokerSettings
    store: StoreSettings
    serve: ServeSettings
    shadow: ShadowPolicy
    update: UpdateSettings
    fetch: FetchSettings
    trust: TrustSettings
    relay: RelaySettings | None
    homeassistant: HomeAssistantSettings


class Option(msgspec.Struct, frozen=True):
    """One key of a section. A required one may still be absent where its whole section is optional."""

    parse: Parser
    default: object
    required: bool


_Sections = dict[str, dict[str, object]]


def load(path: Path, environment: Mapping[str, str]) -> Settings:
    """Read the settings in the file at `path`, overlaid by `environment`.

    Raises:
        UsageError: `config-invalid`, with every problem found.
    """
    written = _read(path)
    problems = list(_unknown(written))
    merged = _overlay(written, environment)
    folder, values = path.absolute().parent, {}
    for section, options in OPTIONS.items():
        values[section] = {
            name: _value(option, merged[section].get(name), f"{section}.{name}", folder, problems)
            for name, option in options.items()
        }
    problems += _contradictions(values)
    if problems:
        listed = "; ".join(problems[:_SHOWN_MAX])
        raise UsageError("config-invalid", f"{path} has {len(problems)} problem(s): {listed}", "fix them and try again")
    return Settings(**{name: _build(kind, values[name]) for name, kind in SECTIONS.items()})


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "name an agent.toml with --config; `edgeml device enroll` writes one"
        raise UsageError("config-invalid", f"{path} can't be read: {error}", hint) from error


def _unknown(written: Mapping[str, object]) -> Iterator[str]:
    for section, content in written.items():
        if section not in OPTIONS:
            yield f"there is no section [{section}]"
        elif not isinstance(content, dict):
            yield f"{section} is not a section"
        else:
            yield from (f"[{section}] has no key {key!r}" for key in content if key not in OPTIONS[section])


def _overlay(written: Mapping[str, object], environment: Mapping[str, str]) -> _Sections:
    merged: _Sections = {}
    for section, options in OPTIONS.items():
        content = written.get(section)
        merged[section] = dict(content) if isinstance(content, dict) else {}
        for key in options:
            if (name := variable(section, key)) in environment:
                merged[section][key] = environment[name]
    return merged


def variable(section: str, key: str) -> str:
    """Return the variable of the environment that overlays a key."""
    return f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()


def _value(option: Option, given: object, name: str, folder: Path, problems: list[str]) -> object:
    if given is None and option.required:
        problems.append(f"{name} is missing")
        return None
    try:
        value = option.default if given is None else option.parse(given)
    except (EdgemlError, ValueError) as error:
        problems.append(f"{name}: {error}")
        return None
    return folder / value if isinstance(value, Path) else value


def _contradictions(values: dict[str, dict[str, Any]]) -> Iterator[str]:
    serve = values["serve"]
    if values["homeassistant"]["prefix"] and serve["mqtt"] is False:
        yield "homeassistant.prefix requires serve.mqtt = true"
    if (serve["cert"] is None) != (serve["key"] is None):
        yield "serve.cert and serve.key: TLS takes both"
    if values["fetch"]["http"] and values["relay"]["url"]:
        yield "fetch.http: a relay pulls its chunks over the broker"


def _build(kind: type[msgspec.Struct], values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a `kind`
    """Build a section from its values; None for an optional one whose required keys are absent."""
    given = {
        field.name: _build(field.type, values) if _is_section(field.type) else values[field.name]
        for field in msgspec.structs.fields(kind)
    }
    is_absent = any(field.required and given[field.name] is None for field in msgspec.structs.fields(kind))
    return None if is_absent else kind(**given)


def _options(kind: type[msgspec.Struct], *, required: bool) -> Iterator[tuple[str, Option]]:
    """Yield the options of a section by name; those of a struct within it belong to the section, too."""
    for field in msgspec.structs.fields(kind):
        if _is_section(field.type):
            yield from _options(field.type, required=required)
            continue
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        default = None if default is msgspec.NODEFAULT else default
        yield field.name, Option(_parser(field.type), default, required and field.required)


def _parser(annotation: object) -> Parser:
    """Return the parser in an annotation: of `Annotated`, or of its union with None."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(it for it in get_args(annotation) if get_origin(it) is Annotated)
    return cast("Parser", get_args(annotation)[1])


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _section(annotation: Any) -> type[msgspec.Struct]:  # noqa: ANN401 - a struct, or its union with None
    kinds: list[type[msgspec.Struct]] = [it for it in (annotation, *get_args(annotation)) if _is_section(it)]
    return kinds[0]


#: The struct of each section.
SECTIONS: Final = {field.name: _section(field.type) for field in msgspec.structs.fields(Settings)}
#: The keys of each section.
OPTIONS: Final = {
    field.name: dict(_options(SECTIONS[field.name], required=_is_section(field.type)))
    for field in msgspec.structs.fields(Settings)
}

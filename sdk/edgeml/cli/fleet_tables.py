"""The tables of `edgeml fleet status` and `devices`, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from edgeml.cli.output import Output, printable, table
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.status import CHOSEN_STATES, DeviceStatus, Failure, FleetStatus
from edgeml_core import names
from edgeml_core.errors import DeviceError, UsageError

#: Devices, and failures, that `status` prints: two screens. All are under `--json`, devices under `fleet devices`, too.
SHOWN_MAX: Final = 50
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
#: A value for `--json`, and the same as text.
Answer: TypeAlias = tuple[dict[str, object], str]


def look(repo: Path, *, state: str, labels: Sequence[str], **database: Any) -> Callable[[], Answer]:  # noqa: ANN401
    """Return a function that reads the fleet's status, with the chosen devices; by default those that aren't well.

    Raises:
        UsageError: `usage`, for a state or label that no device can have; `repo-invalid`.
    """
    is_chosen = bool(state or labels)
    pairs, fleet = names.parse_labels(labels), Fleet(repo, **database)
    state = _state(state) if is_chosen else "unwell"

    def read() -> Answer:
        found, listed = fleet.status(), fleet.devices(state=state, labels=pairs)
        value = {**found.to_dict(), "listed": [it.to_dict() for it in listed]}
        return value, _status_text(found, listed, is_chosen=is_chosen)

    return read


def devices(
    repo: Path,
    *,
    state: str,
    labels: Sequence[str],
    after: str,
    limit: int | None,
    **database: Any,  # noqa: ANN401
) -> Answer:
    """Return the chosen devices. Errors are those of `look`."""
    pairs = names.parse_labels(labels)
    found = Fleet(repo, **database).devices(state=_state(state), labels=pairs, after=after, limit=limit)
    headers = ("device", "online", "last seen", "labels", "models", "drift")
    return {"devices": [it.to_dict() for it in found]}, table(headers, map(_device_row, found))


def watch(out: Output, read: Callable[[], Answer], every_s: float) -> None:
    """Print an answer again and again until interrupted: in place, or under `--json` a line each time.

    A database that fails for a while is reported in its place.
    """
    from rich.live import Live  # noqa: PLC0415 - kept out of --help
    from rich.text import Text  # noqa: PLC0415 - as above

    def text() -> str:
        try:
            value, shown = read()
        except DeviceError as error:
            value, shown = {"error": error.to_dict()}, f"error[{error.code}]: {error.message}"
        return json.dumps(value) if out.as_json else shown

    try:
        if out.as_json:
            while True:
                click.echo(text())
                time.sleep(every_s)
        with Live(Text(text()), auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                time.sleep(every_s)
                live.update(Text(text()), refresh=True)
    except KeyboardInterrupt:
        return


def _state(state: str) -> str:
    if state and state not in CHOSEN_STATES:
        raise UsageError("usage", f"no device can be in the state {state!r}", f"name one of {', '.join(CHOSEN_STATES)}")
    return state


def age(seconds: float) -> str:
    """Write the time since an event in its largest unit."""
    for unit_s, unit in ((_DAY_S, "day(s)"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _seen(device: DeviceStatus) -> str:
    return age(time.time() - device.seen_s) if device.seen_s else "never"


def _device_row(device: DeviceStatus) -> tuple[str, ...]:
    models = ", ".join(f"{name} {model.version} ({model.state})" for name, model in device.models.items())
    drifts = {name: model.drift.summary for name, model in device.models.items() if model.drift is not None}
    drift = ", ".join(text if len(device.models) == 1 else f"{name} {text}" for name, text in drifts.items())
    return device.id, "yes" if device.online else "no", _seen(device), names.as_text(device.labels), models, drift


def _chosen_row(device: DeviceStatus) -> tuple[str, ...]:
    states = ", ".join(f"{name}: {state}" for name, state in device.deployments.items())
    return device.id, "yes" if device.online else "no", _seen(device), states, names.as_text(device.labels)


def _status_text(found: FleetStatus, listed: Sequence[DeviceStatus], *, is_chosen: bool) -> str:
    hosts = [f"{it.name}{' (leads)' if it.is_leader else ''}, seen {age(it.age_s)}" for it in found.hosts]
    summary = f"fleet {found.fleet}: {found.online} of {found.devices} device(s) online; "
    summary += f"served by {'; '.join(hosts)}" if hosts else "no host is serving: start edgeml fleet serve"
    rows = [
        (it.id, f"{it.name} {it.version or '(removed)'}", it.selector or "all", f"{it.percent:g} %", it.devices,
         ", ".join(f"{count} {state}" for state, count in it.states.items()))
        for it in found.deployments
    ]  # fmt: skip
    parts = [summary, table(("deployment", "release", "to", "share", "devices", "states"), rows)]
    if listed or is_chosen:
        headers = ("device", "online", "last seen", "deployments", "labels")
        parts += ["", table(headers, map(_chosen_row, listed[:SHOWN_MAX]))]
        parts += _more(len(listed), "device(s): edgeml fleet devices prints all")
    return "\n".join((*parts, *_lines(found)))


def _lines(found: FleetStatus) -> Iterable[str]:
    failures: list[Failure] = [*found.refusals, *(failure for it in found.deployments for failure in it.failures)]
    for failure in failures[:SHOWN_MAX]:
        yield printable(f"{failure.device}: error[{failure.code}]: {failure.message}")
    yield from _more(len(failures), "failure(s): --json prints all")
    for it in found.withdrawn:
        yield printable(f"{it.device}: serves {it.name} {it.version}, which is withdrawn: deploy another version")
    for drifted in found.drifted:
        yield printable(f"{drifted.device}: {drifted.name} {drifted.version} drifts: {drifted.drift.summary}")


def _more(count: int, of: str) -> list[str]:
    return [f"and {count - SHOWN_MAX} more {of}"] if count > SHOWN_MAX else []

"""The registry: the last state and reports of each device, and a bounded history of both. It survives the host.

The caller records messages of enrolled devices only. Several threads and hosts may call; what they record together is
each time in one transaction. The connection to the database is left to `database`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import DEVICE, HISTORY, REPORT
from edgeml_core import decoding
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, Report

#: The kind of a change in a device's history.
Kind = Literal["state", "report"]
#: Changes kept of each device, of either kind: some weeks of a device that is updated daily.
HISTORY_MAX: Final = 50
#: Characters of a report's state that queries can select by; the longest of the update machine has 11.
STATE_MAX_CHARS: Final = 64
#: Devices named in one statement, below SQLite's 32,766 parameters.
NAMED_MAX: Final = 10_000
#: The states in which a deployment has ended badly.
FAILED: Final = frozenset({State.REJECTED, State.ROLLED_BACK})


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A device's last state, and its time of arrival in seconds since 1970."""

    state: DeviceState
    seen_s: float


class DeviceMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a device, and its time of arrival in seconds since 1970."""

    device: str
    message: DeviceState | Report
    seen_s: float


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A state or report of a device that differed from the one before, and its time in seconds since 1970."""

    message: DeviceState | Report
    seen_s: float


def _pass(_: Connection) -> None:
    """Let any transaction go on."""


class Registry:
    """The devices' part of the fleet's database.

    Args:
        where: the file's path, or `postgresql://...`, as for `Database`.
        password_file: the file with the password of the URL's user.
    """

    def __init__(self, where: Path | str, *, password_file: Path | None = None) -> None:
        self.database = Database(where, password_file=password_file)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def record(self, received: Iterable[DeviceMessage], check: Callable[[Connection], None] = _pass) -> None:
        """Record messages in one transaction.

        A late will, of an older session than the last birth, is ignored. A birth always counts, even with an older
        session: a device that lost its store counts its sessions from 1 again.

        Args:
            received: the messages, in the order of their arrival.
            check: raises where the transaction must fail: `Leadership.check`.
        """
        messages = list(received)
        if not messages:
            return
        with self.database.writing() as connection:
            check(connection)
            batch = _Batch(connection, messages)
            for it in messages:
                batch.add(it)
            for table, rows in batch.rows():
                connection.execute(self.database.upsert(table), rows)

    def keep_reports(self, deployments: Iterable[str], check: Callable[[Connection], None] = _pass) -> None:
        """Forget the reports about all other deployments; `check` is that of `record`."""
        kept = set(deployments)
        with self.database.writing() as connection:
            check(connection)
            known = connection.scalars(sa.select(REPORT.c.deployment).distinct()).all()
            for deployment in set(known) - kept:
                connection.execute(sa.delete(REPORT).where(REPORT.c.deployment == deployment))

    def keep_devices(self, devices: Collection[str], check: Callable[[Connection], None] = _pass) -> None:
        """Forget all other devices: those that are no longer enrolled. `check` is that of `record`."""
        with self.database.writing() as connection:
            check(connection)
            gone = sorted(set(connection.scalars(sa.select(DEVICE.c.id))) - set(devices))
            for names in _parts(gone):
                for column in (DEVICE.c.id, REPORT.c.device, HISTORY.c.device):
                    connection.execute(sa.delete(column.table).where(column.in_(names)))

    def ids(self) -> set[str]:
        """Return the devices that have a state."""
        with self.database.reading() as connection:
            return set(connection.scalars(sa.select(DEVICE.c.id).where(DEVICE.c.state.is_not(None))))

    def devices(self, *, first: str | None = None, last: str | None = None) -> dict[str, Seen]:
        """Return the last state of each device, by id.

        Args:
            first: the first id of a range; None sets no bound.
            last: the last id.
        """
        query = sa.select(DEVICE.c.id, DEVICE.c.seen_s, DEVICE.c.state).where(DEVICE.c.state.is_not(None))
        query = query.where(*_between(DEVICE.c.id, first, last)).order_by(DEVICE.c.id)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
            return {name: Seen(state=decoding.from_json(state, DeviceState), seen_s=seen) for name, seen, state in rows}

    def reports(self, deployment: str, *, first: str | None = None, last: str | None = None) -> dict[str, Report]:
        """Return the last report of each device about one deployment. The range is that of `devices`."""
        query = sa.select(REPORT.c.device, REPORT.c.report).where(REPORT.c.deployment == deployment)
        query = query.where(*_between(REPORT.c.device, first, last))
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(REPORT.c.device)).all()
            return {device: decoding.from_json(report, Report) for device, report in rows}

    def failed(self) -> list[DeviceMessage]:
        """Return the last reports of deployments that ended badly, each with its device."""
        query = sa.select(REPORT.c.device, REPORT.c.seen_s, REPORT.c.report).where(REPORT.c.state.in_(FAILED))
        with self.database.reading() as connection:
            return [
                DeviceMessage(device=device, message=decoding.from_json(report, Report), seen_s=seen)
                for device, seen, report in connection.execute(query)
            ]

    def history(self, device: str, kind: Kind) -> list[Change]:
        """Return the last changes of a device's state, or of its reports, the newest first; at most `HISTORY_MAX`."""
        type_: Any = DeviceState if kind == "state" else Report
        query = sa.select(HISTORY.c.message, HISTORY.c.seen_s).order_by(HISTORY.c.number.desc())
        with self.database.reading() as connection:
            rows = connection.execute(query.where(HISTORY.c.device == device, HISTORY.c.kind == kind)).all()
            return [Change(message=decoding.from_json(message, type_), seen_s=seen) for message, seen in rows]


class _Device(msgspec.Struct):
    """A device's row while a batch changes it."""

    seen_s: float = 0.0
    state: DeviceState | None = None
    states: int = 0
    reports: int = 0


class _Batch:
    """The rows that some messages change: each row once, however many messages change it."""

    def __init__(self, connection: Connection, messages: Sequence[DeviceMessage]) -> None:
        names = sorted({it.device for it in messages})
        # In one order on every host, so that none waits for a row while another waits for its own.
        query = sa.select(DEVICE).where(DEVICE.c.id.in_(names)).order_by(DEVICE.c.id).with_for_update()
        self._devices = {row.id: _device(row) for row in connection.execute(query)}
        deployments = {it.message.deployment for it in messages if isinstance(it.message, Report)}
        known = sa.select(REPORT).where(REPORT.c.device.in_(names), REPORT.c.deployment.in_(deployments))
        self._reports: dict[tuple[str, str], dict[str, Any]] = (
            {(row.deployment, row.device): dict(row._mapping) for row in connection.execute(known)}  # noqa: SLF001
            if deployments
            else {}
        )
        self._changed_reports: set[tuple[str, str]] = set()
        self._history: dict[tuple[str, Kind, int], dict[str, Any]] = {}

    def add(self, received: DeviceMessage) -> None:
        """Take a message into account, after all those before it."""
        device = self._devices.setdefault(received.device, _Device())
        if isinstance(received.message, Report):
            device.seen_s = received.seen_s
            self._add_report(device, received, received.message)
        elif not _is_late_will(device.state, received.message):
            state = _newest(device.state, received.message)
            device.seen_s = received.seen_s
            if device.state is None or _outline(device.state) != _outline(state):
                device.states += 1
                self._note(msgspec.structs.replace(received, message=state), "state", device.states)
            device.state = state

    def rows(self) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
        """Return the changed rows of each table that has some."""
        yield DEVICE, [_row(name, device) for name, device in sorted(self._devices.items())]
        if self._changed_reports:
            yield REPORT, [self._reports[key] for key in sorted(self._changed_reports)]
        if self._history:
            yield HISTORY, list(self._history.values())

    def _add_report(self, device: _Device, received: DeviceMessage, report: Report) -> None:
        key = report.deployment, received.device
        encoded, known = msgspec.json.encode(report), self._reports.get(key)
        if known is None or known["state"] != column_text(report.state) or _code(known["report"]) != report.code:
            device.reports += 1
            self._note(received, "report", device.reports)
        self._changed_reports.add(key)
        self._reports[key] = {
            "deployment": report.deployment,
            "device": received.device,
            "seen_s": received.seen_s,
            "state": column_text(report.state),
            "report": encoded,
        }

    def _note(self, received: DeviceMessage, kind: Kind, number: int) -> None:
        slot = number % HISTORY_MAX
        self._history[received.device, kind, slot] = {
            "device": received.device,
            "kind": kind,
            "slot": slot,
            "number": number,
            "seen_s": received.seen_s,
            "message": msgspec.json.encode(received.message),
        }


def _is_late_will(known: DeviceState | None, state: DeviceState) -> bool:
    return known is not None and not state.online and state.session < known.session


def _newest(known: DeviceState | None, state: DeviceState) -> DeviceState:
    """Return a state with the newest content: a will has that of the time when its connection began."""
    if known is None or state.online or state.session != known.session:
        return state
    return msgspec.structs.replace(known, online=False)


def _outline(state: DeviceState) -> object:
    """The fields of a state whose change is worth a line in the history."""
    models = {name: (model.version, model.state) for name, model in state.models.items()}
    return state.online, state.agent, state.code, models


def _code(report: bytes) -> str:
    return decoding.from_json(report, Report).code


def column_text(text: str, max_chars: int = STATE_MAX_CHARS) -> str:
    """Return a device's text as any database takes it: PostgreSQL refuses one character, and long ones in an index."""
    return text[:max_chars].replace("\0", "")


def _device(row: sa.Row[Any]) -> _Device:
    state = None if row.state is None else decoding.from_json(row.state, DeviceState)
    return _Device(seen_s=row.seen_s, state=state, states=row.states, reports=row.reports)


def _row(name: str, device: _Device) -> dict[str, Any]:
    state = None if device.state is None else msgspec.json.encode(device.state)
    return {"id": name, "seen_s": device.seen_s, "state": state, "states": device.states, "reports": device.reports}


def _between(column: sa.Column[str], first: str | None, last: str | None) -> Iterator[sa.ColumnElement[bool]]:
    if first is not None:
        yield column >= first
    if last is not None:
        yield column <= last


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + NAMED_MAX] for start in range(0, len(names), NAMED_MAX))

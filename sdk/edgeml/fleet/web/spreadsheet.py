"""Devices and entries of the audit log as CSV. A cell that a spreadsheet would compute gets a quote in front."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from edgeml.fleet.status import DeviceStatus
from edgeml.repository.audit import Entry
from edgeml_core import names

#: Characters by which a spreadsheet takes a cell for a formula. Where a comma is the decimal sign, a semicolon or
#: a line break in a text begins a cell, too.
_FORMULA = re.compile(r"""(^|[;\r\n][\s"]*)([=+@\t\r-])""")


def devices(found: Iterable[DeviceStatus], *, has_head: bool) -> str:
    """Write devices as CSV, below the names of the columns or as the next part of a table."""
    head = ("device", "online", "seen", "labels", "agent", "arch", "models", "deployments", "drift", "code", "message")
    return _text([*([head] if has_head else []), *map(_device, found)])


def audit(entries: Iterable[Entry], *, has_head: bool) -> str:
    """Write entries of the audit log as CSV, as `devices` does."""
    head = ("number", "time", "actor", "act", "subject", "details")
    rows = ((str(it.number), it.time, it.actor, it.act, it.subject, _pairs(it.details.items())) for it in entries)
    return _text([*([head] if has_head else []), *rows])


def _device(it: DeviceStatus) -> tuple[str, ...]:
    seen = datetime.fromtimestamp(it.seen_s, UTC).isoformat(timespec="seconds") if it.seen_s else ""
    models = _pairs((name, f"{model.version} {model.state}") for name, model in it.models.items())
    drift = _pairs((name, model.drift.grade) for name, model in it.models.items() if model.drift)
    states = _pairs(it.deployments.items())
    online = "yes" if it.online else "no"
    return it.id, online, seen, names.as_text(it.labels), it.agent, it.arch, models, states, drift, it.code, it.message


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in pairs)


def _text(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_FORMULA.sub(r"\1'\2", it) for it in row] for row in rows)
    return text.getvalue()

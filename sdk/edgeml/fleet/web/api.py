"""The endpoints of the REST API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from typing import Final, TypeVar

import msgspec
from starlette.responses import Response, StreamingResponse

from edgeml.fleet import status
from edgeml.fleet.rollouts.acts import ACTS
from edgeml.fleet.status import Chosen
from edgeml.fleet.web import metrics, openapi, spreadsheet
from edgeml.fleet.web.accounts import Accounts
from edgeml.fleet.web.administration import Administration
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.gateway import Endpoint
from edgeml.fleet.web.operations import (
    CSV,
    JSON,
    PAGE_MAX,
    TEXT,
    AccountList,
    AddedToken,
    AuditLog,
    AuditQuery,
    DeviceQuery,
    NewToken,
    Releases,
    Rollouts,
    SteerQuery,
)
from edgeml.fleet.web.threads import Threads
from edgeml.fleet.web.view_model import DevicePage, ViewModel
from edgeml.repository import RepositoryFolder
from edgeml_core import selectors
from edgeml_core.errors import UsageError

DAY_S: Final = 86_400.0
Kind = TypeVar("Kind")
#: Where a part of a table begins: behind a device, or before an entry.
At = TypeVar("At", str, int)


def endpoints(
    view: ViewModel, repository: RepositoryFolder, accounts: Accounts, threads: Threads
) -> dict[str, Endpoint]:
    """Return the endpoints of the REST API, by name."""

    def administration(exchange: Exchange) -> Administration:
        return Administration(repository, accounts, exchange.actor)

    def list_accounts(exchange: Exchange) -> AccountList:
        return AccountList(accounts=tuple(administration(exchange).all()))

    def add_token(exchange: Exchange) -> AddedToken:
        new = _of(exchange.body, NewToken)
        text = administration(exchange).add_token(new.name, new.role, lifetime_s=new.days * DAY_S)
        return AddedToken(token=text)

    def remove_account(exchange: Exchange) -> AccountList:
        administration(exchange).remove(exchange.params["account"])
        return list_accounts(exchange)

    return {
        **_reading(view, threads),
        "steer_rollout": lambda it: steer(view, it),
        "list_accounts": list_accounts,
        "add_token": add_token,
        "remove_account": remove_account,
        "show_metrics": lambda _: Response(metrics.text(view), media_type=f"{TEXT}; version=0.0.4; charset=utf-8"),
        "show_health": lambda _: {"status": "ok"},
        "show_document": lambda _: Response(_document(), media_type=JSON),
    }


def _reading(view: ViewModel, threads: Threads) -> dict[str, Endpoint]:
    def list_devices(exchange: Exchange) -> object:
        query = _of(exchange.query, DeviceQuery)
        return _devices_table(view, threads, query) if query.format == "csv" else devices(view, query)

    def list_audit(exchange: Exchange) -> object:
        query = _of(exchange.query, AuditQuery)
        if query.format == "csv":
            return _audit_table(view, threads, query)
        return AuditLog(entries=tuple(view.audit(last=query.last, before=query.before)))

    return {
        "show_fleet": lambda _: view.overview(),
        "list_devices": list_devices,
        "show_device": lambda it: view.device(it.params["device"]),
        "list_rollouts": lambda _: Rollouts(rollouts=tuple(view.rollouts())),
        "show_rollout": lambda it: view.rollout(it.params["rollout"]),
        "list_releases": lambda _: Releases(releases=tuple(view.releases())),
        "show_release": lambda it: view.release(it.params["release"]),
        "list_audit": list_audit,
    }


def devices(view: ViewModel, query: DeviceQuery) -> DevicePage:
    """Return the devices that a query chooses.

    Raises:
        UsageError: `usage`, for a state that no device can be in, or a malformed selector.
    """
    if query.state and query.state not in status.CHOSEN_STATES:
        hint = f"name one of {', '.join(status.CHOSEN_STATES)}"
        raise UsageError("usage", f"no device can be in the state {query.state!r}", hint)
    selectors.parse(query.selector)
    chosen = Chosen(state=query.state, selector=query.selector, version=query.version)
    return view.devices(chosen, after=query.after, limit=query.limit)


def steer(view: ViewModel, exchange: Exchange) -> object:
    """Let the account of a request steer a rollout.

    Raises:
        UsageError: `rollout-unknown`; `route-unknown`, for another act; `usage`, when the phase doesn't permit it, or
            the next wave is another than the one in the query.
    """
    act, query = exchange.params["act"], _of(exchange.query, SteerQuery)
    if act not in ACTS:
        raise UsageError("route-unknown", f"a rollout has no act {act!r}", f"name one of {', '.join(ACTS)}")
    return view.steer(exchange.params["rollout"], act, actor=exchange.actor, wave=query.wave)


def _of(value: object, kind: type[Kind]) -> Kind:
    """Return a value of the type that the operation has."""
    if not isinstance(value, kind):
        raise TypeError(kind)
    return value


def _devices_table(view: ViewModel, threads: Threads, query: DeviceQuery) -> Response:
    def part(after: str) -> tuple[str, str]:
        page = devices(view, msgspec.structs.replace(query, after=after, limit=PAGE_MAX))
        return spreadsheet.devices(page.devices, has_head=after == query.after), page.after

    return _table("devices.csv", threads, part, query.after)


def _audit_table(view: ViewModel, threads: Threads, query: AuditQuery) -> Response:
    def part(before: int) -> tuple[str, int]:
        entries = view.audit(last=PAGE_MAX, before=before)
        next_before = entries[-1].number if len(entries) == PAGE_MAX else 0
        return spreadsheet.audit(entries, has_head=before == query.before), next_before

    return _table("audit.csv", threads, part, query.before)


def _table(name: str, threads: Threads, part: Callable[[At], tuple[str, At]], begin: At) -> Response:
    """Return a whole table as CSV. It is read in parts, each when the one before is taken."""

    async def parts(text: str, at: At) -> AsyncIterator[str]:
        yield text
        while at:
            text, at = await threads.run(partial(part, at))
            yield text

    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(parts(*part(begin)), media_type=f"{CSV}; charset=utf-8", headers=headers)


@cache
def _document() -> bytes:
    return openapi.encoded()

"""The task of `edgeml fleet serve` that signs the freshness again, before devices would find the metadata expired."""

from __future__ import annotations

import asyncio
from typing import Final, NoReturn

from edgeml.fleet.leadership import Leadership
from edgeml.fleet.recorder import Events
from edgeml.repository import RepositoryFolder, layout, renewal
from edgeml_core.errors import EdgemlError

#: Seconds between two checks whether the freshness is to be signed: it lasts for days.
CHECK_EVERY_S: Final = 3600.0


async def run(repository: RepositoryFolder, leadership: Leadership, events: Events) -> NoReturn:
    """Sign while this host leads, until cancelled. A failure is reported, and tried again."""
    while True:
        await leadership.until(is_leader=True)
        try:
            if await asyncio.to_thread(renewal.is_due, repository, layout.utc_now()):
                await asyncio.to_thread(renewal.renew, repository, layout.utc_now())
                events.event("refreshed", "signed freshness again")
        except EdgemlError as error:
            events.event("refresh-failed", f"freshness can't be signed: {error.message}", **error.to_dict())
        await asyncio.sleep(CHECK_EVERY_S)

"""Clients that together want several times what a model can give, and each does as it is told when it is refused.

Each has a connection of its own and asks once in a while; who gets 429 waits for as long as `Retry-After` says and asks
again, before it goes on. Runs on the caller's event loop; the server is another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from support import plain_http

#: As many as fit into the connections that the agent lets in, with some to spare.
CLIENTS: Final = 200
ANSWER_MAX_S: Final = 30.0
CAPACITY_CONNECTIONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and what its answer must be."""

    port: int
    path: str
    body: bytes
    is_right: Callable[[bytes], bool]


@dataclass
class Outcome:
    """What came of it all.

    Attributes:
        accepted_s: from asking to the answer, of each request that was answered.
        told_s: what `Retry-After` said, each time.
        returned: for each client that was refused, how often it came back until it was answered.
        failures: whatever else happened.
    """

    accepted_s: list[float] = field(default_factory=list)
    told_s: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def unloaded_s(asked: Asked, seconds: float) -> list[float]:
    """The latencies of one client that has the server for itself."""
    return (await _closed_loop(asked, 1, seconds)).accepted_s


async def capacity_per_s(asked: Asked, seconds: float) -> float:
    """How many requests a second are answered when there are always some."""
    outcome = await _closed_loop(asked, CAPACITY_CONNECTIONS, seconds)
    return len(outcome.accepted_s) / seconds


async def overload(asked: Asked, *, wanted_per_s: float, seconds: float) -> Outcome:
    """Want so much for so long; then those who were refused come back once more, and all is over."""
    outcome, interval_s = Outcome(), CLIENTS / wanted_per_s
    until_s = time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            delay_s = number / CLIENTS * interval_s
            tasks.create_task(_client(asked, outcome, until_s, delay_s=delay_s, interval_s=interval_s))
    return outcome


async def _client(asked: Asked, outcome: Outcome, until_s: float, *, delay_s: float, interval_s: float) -> None:
    await asyncio.sleep(delay_s)
    async with plain_http.connection(asked.port) as connection:
        while (begun_s := time.monotonic()) < until_s:
            told_s, returns = await _ask(connection, asked, outcome), 0
            while told_s is not None:
                await asyncio.sleep(told_s)
                told_s, returns = await _ask(connection, asked, outcome), returns + 1
            if returns:
                outcome.returned.append(returns)
            await asyncio.sleep(max(0.0, begun_s + interval_s - time.monotonic()))


async def _closed_loop(asked: Asked, connections: int, seconds: float) -> Outcome:
    outcome, until_s = Outcome(), time.monotonic() + seconds

    async def client() -> None:
        async with plain_http.connection(asked.port) as connection:
            while time.monotonic() < until_s:
                await _ask(connection, asked, outcome)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(client())
    return outcome


async def _ask(connection: plain_http.Connection, asked: Asked, outcome: Outcome) -> int | None:
    """Note what came of one request: None when it was answered, else the seconds until it may come back."""
    begun_s = time.perf_counter()
    async with asyncio.timeout(ANSWER_MAX_S):
        answer = await connection.post(asked.path, asked.body)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        outcome.told_s.append(int(answer.headers["retry-after"]))
        return outcome.told_s[-1]
    if answer.status == HTTPStatus.OK and asked.is_right(answer.content):
        outcome.accepted_s.append(time.perf_counter() - begun_s)
    else:
        outcome.failures.append(f"{answer.status}: {answer.content[:100]!r}")
    return None

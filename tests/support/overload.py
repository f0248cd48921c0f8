"""Clients that together send several times the requests that a model can answer, and obey Retry-After.

Each client has a connection of its own. A client that gets 429 waits for the seconds in `Retry-After` and repeats the
request before its next one. All run on the caller's event loop; the server is another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from support import plain_http

#: Fewer than the connections that the agent accepts.
CLIENTS: Final = 200
ANSWER_MAX_S: Final = 30.0
CAPACITY_CONNECTIONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and the check of its answer."""

    port: int
    path: str
    body: bytes
    is_right: Callable[[bytes], bool]


@dataclass
class Outcome:
    """The outcome of all requests.

    Attributes:
        accepted_s: seconds from each answered request to its answer.
        told_s: the seconds of each `Retry-After`.
        returned: for each refused request, how often it was repeated until it was answered.
        failures: all other outcomes.
    """

    accepted_s: list[float] = field(default_factory=list)
    told_s: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def unloaded_s(asked: Asked, seconds: float) -> list[float]:
    """Return the latencies of one client alone, in seconds."""
    return (await _closed_loop(asked, 1, seconds)).accepted_s


async def capacity_per_s(asked: Asked, seconds: float) -> float:
    """Return the answers per second while requests always wait."""
    outcome = await _closed_loop(asked, CAPACITY_CONNECTIONS, seconds)
    return len(outcome.accepted_s) / seconds


async def overload(asked: Asked, *, wanted_per_s: float, seconds: float) -> Outcome:
    """Send `wanted_per_s` requests a second for `seconds`; refused requests are repeated after that, too."""
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
    """Send one request and keep its outcome; return None for an answer, else the seconds of `Retry-After`."""
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

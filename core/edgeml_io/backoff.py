"""Delays between attempts: doubled up to a bound, with jitter, so that the devices of a fleet don't return together."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Final

#: Seconds after which a connection, or a run of a process, counts as stable: the next delay is the first one again.
STABLE_S: Final = 60.0
#: Seconds after which it was of use. A broker that falls under its fleet, or closes the first of two clients with one
#: id, ends connections sooner: the delays go on growing.
USEFUL_S: Final = 5.0
#: The longest delay after one of use, as a fraction of its duration: a link that breaks often is up most of the time.
DELAY_OF_DURATION: Final = 0.25

_RANDOM: Final = secrets.SystemRandom()


def jittered(seconds: float) -> float:
    """Return between half and one and a half times `seconds`."""
    return seconds * _RANDOM.uniform(0.5, 1.5)


def delays(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield delays in seconds without end, each about twice the one before."""
    delay_s = first_s
    while True:
        yield jittered(delay_s)
        delay_s = min(2 * delay_s, longest_s)


class Backoff:
    """The delays before the next of what should last: a client's connections, or the runs of a process.

    Args:
        first_s: about the first delay, in seconds, and that after a stable one.
        longest_s: about the longest.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._delay_s = first_s
        self._began_s: float | None = None

    def began(self) -> None:
        """Note that it is up: its duration counts from here, and an attempt without this has none."""
        self._began_s = time.monotonic()

    def reset(self) -> None:
        """Let the next delay be the first one, however short the last duration was."""
        self._delay_s, self._began_s = self._first_s, None

    async def wait(self) -> None:
        """Wait until the next attempt is due."""
        lasted_s = 0.0 if self._began_s is None else time.monotonic() - self._began_s
        self._began_s = None
        if lasted_s > STABLE_S:
            self._delay_s = self._first_s
        elif lasted_s > USEFUL_S:
            self._delay_s = min(self._delay_s, lasted_s * DELAY_OF_DURATION)
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._longest_s)
        await asyncio.sleep(jittered(delay_s))

"""The clock of this device, as updates use it."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The system's clock."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)

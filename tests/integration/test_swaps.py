"""Fifty swaps under load from sixteen clients: no request fails, each answer is right, memory comes back."""

import asyncio

from support import swaps
from support.scale import scaled
from support.server_processes import memory_bytes

SWAPS = scaled(50, otherwise=5)
#: Both take the first of it, while threads and buffers come into being.
SETTLING_SWAPS = 3
RSS_MOST = 1.15
#: More than glibc ever takes from its heap: of 16 MiB it keeps one copy now and then, of any number of swaps.
WEIGHTS_BYTES = 40 * 1024**2


def test_swaps_under_load_cost_no_answer_and_no_memory(tmp_path):
    """All versions answer, each as it says; the weights come and go with each swap."""
    with swaps.serving(tmp_path, weights_bytes=WEIGHTS_BYTES) as server:
        asyncio.run(swaps.under_load(server, SETTLING_SWAPS))
        before = memory_bytes(server.pid, "Rss")
        outcome = asyncio.run(swaps.under_load(server, SWAPS))
        grown = memory_bytes(server.pid, "Rss") / before
    assert outcome.failures == []
    assert set(outcome.by_version) == set(swaps.SCALES)
    assert min(outcome.by_version.values()) > SWAPS
    assert grown <= RSS_MOST

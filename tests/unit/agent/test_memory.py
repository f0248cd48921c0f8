"""A process's memory, as Linux reports it."""

from edgeml_agent.system import memory
from support.own_process import in_own_process

BLOCK_BYTES = 64 * 1024**2


def test_memory_grows_with_a_block_and_shrinks_when_it_is_released():
    """Anonymous memory is a part of what is resident."""
    before, during, after, resident = in_own_process(_take_and_release_a_block)
    assert during - before > 0.9 * BLOCK_BYTES
    assert resident >= 0.9 * BLOCK_BYTES
    assert during - after > 0.9 * BLOCK_BYTES


def _take_and_release_a_block():
    """Return the anonymous bytes before, with and after it, and the resident ones with it."""
    memory.return_large_blocks()
    before = memory.anonymous_bytes()
    block = bytearray(BLOCK_BYTES)
    block[::4096] = b"x" * len(block[::4096])
    during, resident = memory.anonymous_bytes(), memory.resident_bytes()
    del block
    memory.release()
    return before, during, memory.anonymous_bytes(), resident

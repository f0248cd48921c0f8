"""This process's memory, as Linux reports it."""

from edgeml_agent.system import memory

BLOCK_BYTES = 64 * 1024**2


def test_memory_grows_with_a_block_and_shrinks_when_it_is_released():
    """Anonymous memory is a part of what is resident."""
    memory.return_large_blocks()
    before = memory.anonymous_bytes()
    block = bytearray(BLOCK_BYTES)
    block[::4096] = b"x" * len(block[::4096])
    during = memory.anonymous_bytes()
    assert during - before > 0.9 * BLOCK_BYTES
    assert memory.resident_bytes() >= 0.9 * BLOCK_BYTES
    del block
    memory.release()
    assert memory.anonymous_bytes() < during - 0.9 * BLOCK_BYTES

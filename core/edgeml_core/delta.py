"""The delta between two chunks at the same place in two versions of a file.

Retrained weights change in many places by little. One stream has the positions of changed bytes, another the amounts,
and each compresses by itself to near its entropy. Both chunks have the same length; where bytes moved, a delta saves
nothing.

    positions   the number of unchanged bytes before each changed one, a byte each; 255 stands for 255 more of them
    amounts     new minus old of each changed byte, modulo 256
"""

from __future__ import annotations

from itertools import compress, pairwise
from typing import Final

#: The gap byte for "255 unchanged bytes, and more follow".
_MORE: Final = 255


def diff(base: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Return the positions and amounts that turn `base` into `chunk`."""
    amounts = _subtract(chunk, base)
    changed = [-1, *compress(range(len(chunk)), amounts)]
    gaps = [there - here - 1 for here, there in pairwise(changed)]
    positions = b"".join(bytes([_MORE] * (gap // _MORE) + [gap % _MORE]) for gap in gaps)
    return positions, amounts.translate(None, b"\0")


def apply(base: bytes, positions: bytes, amounts: bytes) -> bytes | None:
    """Apply the streams to `base`; None if they don't fit it or each other."""
    chunk = bytearray(base)
    here, left = -1, iter(amounts)
    for gap in positions:
        here += gap
        if gap == _MORE:
            continue
        here += 1
        amount = next(left, None)
        if amount is None or here >= len(chunk):
            return None
        chunk[here] = (chunk[here] + amount) & 0xFF
    return bytes(chunk) if next(left, None) is None else None


def _subtract(left: bytes, right: bytes) -> bytes:
    """Subtract byte by byte, `left` minus `right`, as one long number.

    Setting the high bits keeps each byte's borrow to itself.
    """
    high = int.from_bytes(b"\x80" * len(left))
    a, b = int.from_bytes(left), int.from_bytes(right)
    return (((a | high) - (b & ~high)) ^ ((a ^ ~b) & high)).to_bytes(len(left))

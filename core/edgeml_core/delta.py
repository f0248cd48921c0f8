"""The difference between two chunks that lie at the same place in two versions of a file.

Retrained weights change in many places by little: which bytes changed is one stream, by how much another, and each
compresses by itself to near its entropy. Both chunks have one length; where bytes moved, a difference is no gain.

    positions   the unchanged bytes before each changed one, a byte each; 255 stands for 255 more of them
    amounts     new minus old of each changed byte, modulo 256
"""

from __future__ import annotations

from itertools import compress, pairwise
from typing import Final

#: A gap byte that says "so many, and more follows".
_MORE: Final = 255


def streams(base: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Positions and amounts of what turns `base` into `chunk`."""
    amounts = _subtracted(chunk, base)
    changed = [-1, *compress(range(len(chunk)), amounts)]
    gaps = [there - here - 1 for here, there in pairwise(changed)]
    positions = b"".join(bytes([_MORE] * (gap // _MORE) + [gap % _MORE]) for gap in gaps)
    return positions, amounts.translate(None, b"\0")


def applied(base: bytes, positions: bytes, amounts: bytes) -> bytes | None:
    """What the streams make of `base`; None where they don't fit it or each other."""
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


def _subtracted(left: bytes, right: bytes) -> bytes:
    """`left` minus `right`, byte for byte: as one long number whose high bits keep each byte's borrow to itself."""
    high = int.from_bytes(b"\x80" * len(left))
    a, b = int.from_bytes(left), int.from_bytes(right)
    return (((a | high) - (b & ~high)) ^ ((a ^ ~b) & high)).to_bytes(len(left))

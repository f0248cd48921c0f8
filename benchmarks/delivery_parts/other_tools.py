"""The bytes that other tools send for the same update: the whole file, a patch, a delta, or content-defined chunks."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import zstandard

LEVEL: Final = 19
WHOLE: Final = "whole file, zstd -19"
#: Bytes before a boundary that decide about it; boundaries lie 64 KiB apart on average.
WINDOW_BYTES: Final = 32
SHORTEST_BYTES: Final = 16 * 1024
LONGEST_BYTES: Final = 256 * 1024
MASK: Final = np.uint32((1 << 16) - 1 << 8)


def sizes(old: Path, new: Path, folder: Path) -> dict[str, int]:
    """Return the bytes that each tool sends to a device with `old` for it to have `new`."""
    whole, patch, delta = (folder / name for name in ("whole.zst", "patch.zst", "delta.bsdiff"))
    zstd = ["zstd", f"-{LEVEL}", "--quiet", "--force"]
    subprocess.run([*zstd, str(new), "-o", str(whole)], check=True)
    subprocess.run(
        [*zstd, "--long=27", f"--patch-from={old}", str(new), "-o", str(patch)], check=True, stderr=subprocess.DEVNULL
    )
    bsdiff = ["bsdiff", str(old), str(new), str(delta)]
    subprocess.run(bsdiff, check=True)
    return {
        WHOLE: whole.stat().st_size,
        "zstd -19 --patch-from": patch.stat().st_size,
        "bsdiff": delta.stat().st_size,
        "64 KiB content-defined chunks, zstd -19": _chunked(old.read_bytes(), new.read_bytes()),
    }


def _chunked(old: bytes, new: bytes) -> int:
    held = {hashlib.sha256(piece).digest() for piece in _pieces(old)}
    missing = [piece for piece in _pieces(new) if hashlib.sha256(piece).digest() not in held]
    return sum(len(zstandard.compress(piece, LEVEL)) for piece in missing)


def _pieces(content: bytes) -> Iterator[bytes]:
    """Cut where a gear hash of the bytes before has 16 zero bits, as FastCDC and casync do."""
    gear = np.random.default_rng(0).integers(0, 1 << 32, 256, dtype=np.uint32)[np.frombuffer(content, np.uint8)]
    rolled = np.zeros_like(gear)
    for age in range(WINDOW_BYTES):
        rolled[age:] += gear[: len(gear) - age] << np.uint32(age)
    start = 0
    for end in (*(np.flatnonzero((rolled & MASK) == 0) + 1).tolist(), len(content)):
        while end - start > LONGEST_BYTES:
            yield content[start : start + LONGEST_BYTES]
            start += LONGEST_BYTES
        if end - start >= SHORTEST_BYTES or end == len(content):
            yield content[start:end]
            start = end

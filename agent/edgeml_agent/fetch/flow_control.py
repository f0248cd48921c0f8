"""How many chunks may be on their way, and how long to wait for one: from how they have come so far.

The window is what arrives in `AHEAD_S`, so that a fast road is kept full and a slow one has no more than that lying
before it in the broker. While nothing is lost it doubles at most; every loss halves it. Pure: `now_s` is passed in.
"""

from __future__ import annotations

from typing import Final

#: To begin with: on 50 kbit/s four whole chunks take 40 s, and the broker's keepalive doesn't wait much longer.
FIRST_CHUNKS: Final = 4
#: Two keep a road busy: one comes while the other is asked for.
LEAST_CHUNKS: Final = 2
#: 4 MiB: on a way of 100 ms there and back 40 MB/s, and all that the broker ever holds for one device.
MOST_CHUNKS: Final = 64
AHEAD_S: Final = 1.5
#: No chunk for so long, or for so many times the longest pause so far, means that those on their way are lost.
SILENCE_S: Final = 3.0
SILENCE_PAUSES: Final = 4.0
#: Before anything has come, what is wanted may wait for other devices, and a whole chunk takes 11 s on 50 kbit/s.
FIRST_SILENCE_S: Final = 14.0
SILENCE_MAX_S: Final = 60.0
#: A chunk that two windows of others have overtaken is lost, unless it was wanted just now.
OVERTAKEN_S: Final = 2.0
_FORGETTING: Final = 0.9


class Pace:
    """One fetch's pace."""

    def __init__(self) -> None:
        self.window = FIRST_CHUNKS
        self._silences = 0
        self._came_s: float | None = None
        self._longest_pause_s = 0.0
        self._counted = 0
        self._counted_s: float | None = None
        self._shortest_s: float | None = None

    def came(self, now_s: float, wanted_s: float) -> None:
        """A chunk came that was wanted at `wanted_s`."""
        way_s = now_s - wanted_s
        self._shortest_s = way_s if self._shortest_s is None else min(self._shortest_s, way_s)
        if self._came_s is None:
            self._counted_s, self._longest_pause_s = now_s, way_s
        else:
            self._counted += 1
            self._longest_pause_s = max(now_s - self._came_s, self._longest_pause_s * _FORGETTING)
        self._came_s = now_s
        self._silences = 0

    def adapt(self, now_s: float) -> None:
        """Before asking for more: take the window that suits what has come since it was taken last."""
        if self._counted_s is None or self._shortest_s is None or not self._counted:
            return
        ahead_s = max(AHEAD_S, 2 * self._shortest_s)
        fitting = round(ahead_s * self._counted / max(now_s - self._counted_s, 1e-6))
        self.window = max(LEAST_CHUNKS, self.window // 2, min(fitting, 2 * self.window, MOST_CHUNKS))
        self._counted, self._counted_s = 0, now_s

    def lost(self) -> None:
        """Something didn't come."""
        self.window = max(LEAST_CHUNKS, self.window // 2)

    def fell_silent(self) -> int:
        """Nothing came for `silence_s`; how often that was in a row."""
        self._silences += 1
        self.lost()
        return self._silences

    @property
    def silence_s(self) -> float:
        """How long to wait for the next chunk; longer after each time in vain."""
        first_s = FIRST_SILENCE_S if self._came_s is None else SILENCE_S
        patience_s = max(first_s, SILENCE_PAUSES * self._longest_pause_s) * 2.0**self._silences
        return min(SILENCE_MAX_S, patience_s)

    def is_overtaken(self, *, by: int, wanted_s: float, now_s: float) -> bool:
        """Whether a chunk that `by` later ones have overtaken is lost."""
        return by > 2 * self.window and now_s - wanted_s > max(OVERTAKEN_S, 2 * self._longest_pause_s)

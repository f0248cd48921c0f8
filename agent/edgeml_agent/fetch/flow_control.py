"""The window of a fetch and its timeouts, from the arrivals so far.

The window is the number of chunks that arrive in `AHEAD_S`. So it keeps a fast network busy, and no more than that
waits in the broker for a slow one. It at most doubles while nothing is lost; each loss halves it. Pure: the caller
passes `now_s`.
"""

from __future__ import annotations

from typing import Final

#: Chunks of the first window: on 50 kbit/s they take 40 s, and the broker's keepalive ends a little later.
FIRST_CHUNKS: Final = 4
#: Chunks of the smallest window: one arrives while the other is requested.
LEAST_CHUNKS: Final = 2
#: Chunks of the largest window: 4 MiB, which is 40 MB/s at a round trip of 100 ms, and the broker's most per device.
MOST_CHUNKS: Final = 64
#: Seconds of arrivals in one window: several round trips of a mobile network, and a short wait in the broker.
AHEAD_S: Final = 1.5
#: Seconds without an arrival after which all requested chunks count as lost, if the pauses so far were short.
SILENCE_S: Final = 3.0
#: The same in multiples of the longest pause so far: a slow network has long pauses.
SILENCE_PAUSES: Final = 4.0
#: The same before the first arrival: the origin waits 3 s for other devices, and a chunk takes 11 s on 50 kbit/s.
FIRST_SILENCE_S: Final = 14.0
#: The longest such wait in seconds: then the origin is away.
SILENCE_MAX_S: Final = 60.0
#: Seconds for which a chunk that others overtake doesn't count as lost: the origin may be waiting for other devices.
OVERTAKEN_S: Final = 2.0
#: The factor by which the longest pause decays with each arrival: a pause of minutes ago has little weight.
_PAUSE_DECAY: Final = 0.9


class FlowControl:
    """The window and the timeouts of one fetch."""

    def __init__(self) -> None:
        self.window = FIRST_CHUNKS
        self._silences = 0
        self._arrived_s: float | None = None
        self._longest_pause_s = 0.0
        self._counted = 0
        self._counted_s: float | None = None
        self._shortest_round_trip_s: float | None = None

    def on_arrival(self, now_s: float, wanted_s: float) -> None:
        """Count the arrival of a chunk that was requested at `wanted_s`."""
        round_trip_s = now_s - wanted_s
        self._shortest_round_trip_s = (
            round_trip_s if self._shortest_round_trip_s is None else min(self._shortest_round_trip_s, round_trip_s)
        )
        if self._arrived_s is None:
            self._counted_s, self._longest_pause_s = now_s, round_trip_s
        else:
            self._counted += 1
            self._longest_pause_s = max(now_s - self._arrived_s, self._longest_pause_s * _PAUSE_DECAY)
        self._arrived_s = now_s
        self._silences = 0

    def adapt(self, now_s: float) -> None:
        """Set the window from the arrivals since the last call; the caller then requests more."""
        if self._counted_s is None or self._shortest_round_trip_s is None or not self._counted:
            return
        ahead_s = max(AHEAD_S, 2 * self._shortest_round_trip_s)
        fitting = round(ahead_s * self._counted / max(now_s - self._counted_s, 1e-6))
        self.window = max(LEAST_CHUNKS, self.window // 2, min(fitting, 2 * self.window, MOST_CHUNKS))
        self._counted, self._counted_s = 0, now_s

    def on_loss(self) -> None:
        """Halve the window after a loss."""
        self.window = max(LEAST_CHUNKS, self.window // 2)

    def on_silence(self) -> int:
        """Count a wait of `silence_s` without an arrival, and return the number of such waits in a row."""
        self._silences += 1
        self.on_loss()
        return self._silences

    @property
    def silence_s(self) -> float:
        """The seconds to wait for the next chunk; each silence doubles them."""
        first_s = FIRST_SILENCE_S if self._arrived_s is None else SILENCE_S
        wait_s = max(first_s, SILENCE_PAUSES * self._longest_pause_s) * 2.0**self._silences
        return min(SILENCE_MAX_S, wait_s)

    def is_overtaken(self, *, by: int, wanted_s: float, now_s: float) -> bool:
        """Return whether a chunk counts as lost after `by` later ones have arrived before it."""
        return by > 2 * self.window and now_s - wanted_s > max(OVERTAKEN_S, 2 * self._longest_pause_s)

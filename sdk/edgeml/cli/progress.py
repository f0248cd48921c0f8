"""The progress of `edgeml export`: each step with its time, and a bar of rows in long ones.

A terminal has one line that changes. Another reader gets a line every few seconds, `--json` an event as often.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self, TextIO

from edgeml.cli.output import Output

if TYPE_CHECKING:
    from edgeml.pipeline.request import Exported

#: Seconds of answering before rows are shown; most steps are shorter.
ROWS_SHOWN_AFTER_S: Final = 2.0
#: Seconds between two lines, or events, where the reader is no terminal.
LINES_EVERY_S: Final = 5.0
#: Characters of the bar.
BAR_CHARS: Final = 20
#: Moves to the line's beginning and clears it.
_CLEAR: Final = "\r\x1b[K"
_MINUTE_S: Final = 60


class CliProgress:
    """The steps of one export, printed. Leave its context before anything else is printed.

    Args:
        out: the command's output.
        clock: seconds that never go back.
    """

    def __init__(self, out: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._stream = _apart(sys.stdout if out.as_json else sys.stderr)
        self._is_terminal = not out.as_json and self._stream.isatty()
        self._stage, self._stage_s = "", 0.0
        self._is_open = False
        self._done, self._rows_s, self._shown_s = 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._stream not in {sys.stdout, sys.stderr}:
            self._stream.close()

    def stage(self, name: str) -> None:
        """Print that a step begins, and the time of the one before."""
        self._end()
        self._stage, self._stage_s = name, self._clock()
        self._done, self._rows_s, self._shown_s = 0, self._stage_s, self._stage_s
        if self._out.as_json:
            self._event("stage", stage=name)
        else:
            self._write(f"  {name}")
            self._is_open = True

    def rows(self, done: int, total: int) -> None:
        """Print the rows answered, their rate and the time left."""
        now_s = self._clock()
        if done < self._done:  # another model begins
            self._rows_s = self._shown_s = now_s
        self._done = done
        seconds = now_s - self._rows_s
        is_due = self._is_terminal or now_s - self._shown_s >= LINES_EVERY_S
        if not done or seconds < ROWS_SHOWN_AFTER_S or not is_due:
            return
        self._shown_s = now_s
        rate = done / seconds
        left_s = (total - done) / rate
        if self._out.as_json:
            fields = {"done": done, "total": total, "rows_per_s": round(rate, 1), "seconds_left": round(left_s)}
            self._event("rows", stage=self._stage, **fields)
            return
        text = f"{done:,} of {total:,} rows, {rate:,.0f} rows/s, {duration(left_s)} left"
        if self._is_terminal:
            filled = BAR_CHARS * done // total
            self._write(f"{_CLEAR}  {self._stage} [{'#' * filled}{'.' * (BAR_CHARS - filled)}] {text}")
        else:
            self._write(("\n" if self._is_open else "") + f"    {text}\n")
            self._is_open = False

    def done(self, exported: Exported) -> None:
        """Print that a bundle was written."""
        self._end()
        if self._out.as_json:
            self._event("bundle", path=str(exported.path))
        else:
            self._write(f"wrote {exported.path}\n")

    def _end(self) -> None:
        """Print the time of the step that ends."""
        if not self._stage:
            return
        seconds = self._clock() - self._stage_s
        if self._out.as_json:
            self._event("stage_done", stage=self._stage, seconds=round(seconds, 2))
        elif self._is_terminal:
            self._write(f"{_CLEAR}  {self._stage}: {duration(seconds)}\n")
        else:
            self._write(f": {duration(seconds)}\n" if self._is_open else f"    {duration(seconds)} in all\n")
        self._stage, self._is_open = "", False

    def _event(self, name: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": name, **fields}) + "\n")
        self._stream.flush()

    def _write(self, text: str) -> None:
        if not self._out.quiet:
            self._stream.write(text)
            self._stream.flush()


def duration(seconds: float) -> str:
    """Format seconds for people.

    >>> duration(3.21), duration(59.96), duration(125)
    ('3.2 s', '60 s', '2 min 5 s')
    """
    if round(seconds) < _MINUTE_S:
        return f"{seconds:.1f} s" if seconds < _MINUTE_S / 6 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _apart(stream: TextIO) -> TextIO:
    """Open another handle of a stream, which stays while the converters' output is redirected to a file."""
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", errors="backslashreplace")
    except OSError:  # a stream without a file, such as a test's
        return stream

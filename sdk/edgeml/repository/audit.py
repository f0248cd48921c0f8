"""The audit log of a repository: what operators and the controller of rollouts did, when, as a chain of hashed lines.

Each line of `audit.jsonl` is an entry in one canonical JSON form, with its number and the SHA-256 of the line before.
So an entry that was altered, removed or moved is found. The signed fleet document names the log's newest line at the
time of its signature, the head: an end that was cut off before that is found, too. Not found are the loss of entries
after the newest signature, and a new log by a thief of the fleet key: compare a head that was printed elsewhere.

An entry is written before its act is signed. An act whose entry can't be written isn't signed.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edgeml_core import decoding
from edgeml_core.errors import RejectedError, UsageError
from edgeml_io import files

AUDIT_FILE: Final = "audit.jsonl"
#: `before` of the first entry.
NOTHING: Final = "0" * 64
#: Bytes of an entry: the reason of an abort and some names. A reader looks for the last line in as many.
ENTRY_MAX_BYTES: Final = 16 * 1024
#: Characters of one detail; more are cut.
DETAIL_MAX_CHARS: Final = 1000
#: Bytes that are read at a time from the end of the log.
_PART_BYTES: Final = 256 * 1024
_HINT: Final = "move the file away as evidence, which begins a new log, and compare it with an exported copy"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One act. `actor` is `USER@HOST`, or `controller`; `before` the SHA-256 of the line before."""

    number: int
    time: str
    actor: str
    act: str
    subject: str
    details: dict[str, str]
    before: str


class Head(msgspec.Struct, frozen=True):
    """A log's newest entry when it was read: the number and the SHA-256 of its line."""

    number: int = 0
    digest: str = NOTHING

    def __str__(self) -> str:
        """Write it as it stands in the fleet document."""
        return f"{self.number}:{self.digest}"


#: That of an empty log.
EMPTY: Final = Head()


def parse_head(text: str) -> Head:
    """Parse a head as it is printed; an empty text is that of an empty log.

    Raises:
        UsageError: `usage`.
    """
    number, _, digest = text.partition(":")
    is_digest = len(digest) == len(NOTHING) and not set(digest) - set("0123456789abcdef")
    if text and not (number.isascii() and number.isdecimal() and is_digest):
        raise UsageError("usage", f"{text!r} is no head of an audit log", "copy it from `edgeml fleet audit verify`")
    return Head(int(number), digest) if text else EMPTY


def encode(entry: Entry) -> bytes:
    """Encode an entry as its line, without the line's end; equal entries give equal bytes."""
    return msgspec.json.encode(entry, order="sorted")


def check(lines: Iterable[bytes], *anchors: Head, since: Head = EMPTY) -> Head:
    """Check that lines are an unbroken chain which has the anchors.

    Args:
        lines: without their ends.
        anchors: heads that the log had earlier; those up to `since` aren't looked for.
        since: the head before the first line.

    Returns:
        The head.

    Raises:
        RejectedError: `audit-broken`; the message names the first entry that is wrong.
    """
    head, wanted = since, {it.number: it.digest for it in anchors if it.number > since.number}
    for line in lines:
        entry = _decode(line, head)
        if entry.number != head.number + 1:
            message = f"entry {entry.number} stands where entry {head.number + 1} should: some are missing or moved"
            raise RejectedError("audit-broken", message, _HINT)
        if entry.before != head.digest:
            message = f"entry {entry.number} doesn't follow the entry before it: one of them was altered"
            raise RejectedError("audit-broken", message, _HINT)
        head = Head(entry.number, hashlib.sha256(line).hexdigest())
        if wanted.pop(head.number, head.digest) != head.digest:
            message = f"entry {head.number} isn't the one that was signed or printed: it, or one before, was altered"
            raise RejectedError("audit-broken", message, _HINT)
    if wanted:
        message = f"the log ends with entry {head.number}, and had entry {max(wanted)}: its end is missing"
        raise RejectedError("audit-broken", message, _HINT)
    return head


def _decode(line: bytes, head: Head) -> Entry:
    try:
        entry = decoding.from_json(line, Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"the line after entry {head.number} is no entry: {error}"
        raise RejectedError("audit-broken", message, _HINT) from error
    if encode(entry) != line:
        message = f"entry {entry.number} isn't written as it was: it was altered"
        raise RejectedError("audit-broken", message, _HINT)
    return entry


class AuditLog:
    """The log in a repository's folder. Writers hold the folder's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(
        self, act: str, subject: str, details: Mapping[str, object], *, now: datetime, actor: str | None = None
    ) -> Entry:
        """Add an entry, synced to the disk.

        Args:
            act: a verb, as the command's name.
            subject: the device, deployment, release or key that it is about.
            details: further facts; None and empty ones are left out.
            now: the time of the act.
            actor: None is the user of this process.

        Raises:
            OSError: it can't be written.
            RejectedError: `audit-broken`, when the log's last line is no entry.
        """
        head = self.head()
        texts = {key: str(value)[:DETAIL_MAX_CHARS] for key, value in details.items() if value not in {None, ""}}
        entry = Entry(
            number=head.number + 1,
            time=now.isoformat(timespec="milliseconds"),
            actor=actor or operator(),
            act=act,
            subject=subject,
            details=texts,
            before=head.digest,
        )
        is_new = not self._path.exists()
        with self._path.open("ab") as file:
            file.truncate(self._whole_bytes())
            file.write(encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            files.sync(self._path.parent)
        return entry

    def head(self) -> Head:
        """Return the newest entry's number and digest, from the end of the file.

        Raises:
            RejectedError: `audit-broken`, when the last line is no entry.
        """
        return self.head_at(self._whole_bytes())

    def head_at(self, end: int) -> Head:
        """Return the head that the log had when it was this number of bytes long.

        Raises:
            RejectedError: `audit-broken`, when no entry ends there.
        """
        if not end:
            return EMPTY
        with self._path.open("rb") as file:
            file.seek(max(0, end - ENTRY_MAX_BYTES))
            line = file.read(min(end, ENTRY_MAX_BYTES) - 1).rpartition(b"\n")[2]
        return Head(_decode(line, EMPTY).number, hashlib.sha256(line).hexdigest())

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """Yield the lines behind the first bytes as they are, the oldest first; a torn last one is left out."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(start)
                yield from (line[:-1] for line in file if line.endswith(b"\n"))

    def newest(self, last: int, before: int = 0) -> list[Entry]:
        """Return the newest entries, the newest first, unchecked. Older and newer ones are hardly read.

        Args:
            last: their number at most.
            before: only entries with a smaller number; 0 sets no bound.

        Raises:
            RejectedError: `audit-broken`, when a line is no entry.
        """
        start = self._whole_bytes()
        if not start:
            return []
        parts: list[bytes] = []
        lines = 0
        with self._path.open("rb") as file:
            start = _first(file, start, before) if before else start
            while start and lines <= last:
                size = min(start, _PART_BYTES)
                start = file.seek(start - size)
                parts.append(file.read(size))
                lines += parts[-1].count(b"\n")
        found = b"".join(reversed(parts)).split(b"\n")[:-1]
        return [_decode(line, EMPTY) for line in reversed(found[-last:])]

    def entries(self) -> list[Entry]:
        """Return all entries, the oldest first, unchecked.

        Raises:
            RejectedError: `audit-broken`, when a line is no entry.
        """
        return [_decode(line, Head(at)) for at, line in enumerate(self.lines())]

    def _whole_bytes(self) -> int:
        """Return the length of the file up to the end of its last whole line."""
        if not self._path.exists():
            return 0
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(max(0, size - ENTRY_MAX_BYTES))
            torn = len(file.read().rpartition(b"\n")[2])
        return size - torn


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a log that one process has verified: `whole` at a time, and each later entry when it was added."""

    head: Head
    whole: Head
    whole_s: float


class AddedEntries:
    """The log as one process verifies it: whole once, and then what was added, so that a look costs little.

    An entry that is altered after that is found where all is verified again, as by `edgeml fleet audit verify`.

    Args:
        log: of a repository.
        signed: reads the head that is signed now.
    """

    def __init__(self, log: AuditLog, signed: Callable[[], Head]) -> None:
        self._log = log
        self._signed = signed
        self._checked = Checked(head=EMPTY, whole=EMPTY, whole_s=0.0)
        self._bytes, self._anchor = 0, EMPTY
        self._checking = threading.Lock()

    def check(self) -> Checked | None:
        """Verify what was added; None while another thread verifies.

        A log without the verified head, or with another signed head in that part, is verified whole.

        Raises:
            RejectedError: `audit-broken`.
        """
        if not self._checking.acquire(blocking=False):
            return None
        try:
            return self._check(self._signed())
        finally:
            self._checking.release()

    def _check(self, anchor: Head) -> Checked:
        before, now_s = self._checked, time.time()
        is_new = anchor.number > before.head.number or anchor in {before.head, self._anchor}
        is_continued = before.whole_s > 0 and is_new and self._continues()
        end = self._bytes if is_continued else 0

        def lines() -> Iterator[bytes]:
            nonlocal end
            for line in self._log.lines(end):
                end += len(line) + 1
                yield line

        # The operator who begins a new log moves the old one away, and signs the new one's head.
        anchors = (anchor, before.head) if anchor == self._anchor else (anchor,)
        head = check(lines(), *anchors, since=before.head if is_continued else EMPTY)
        whole = {} if is_continued else {"whole": head, "whole_s": now_s}
        self._checked = msgspec.structs.replace(before, head=head, **whole)
        self._bytes, self._anchor = end, anchor
        return self._checked

    def _continues(self) -> bool:
        try:
            return self._log.head_at(self._bytes) == self._checked.head
        except (OSError, RejectedError):
            return False


def _first(file: BinaryIO, end: int, number: int) -> int:
    """Return where the first entry begins that has at least this number; `end` if none has. Entries are sorted."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        file.seek(max(0, middle - 1))
        skipped = len(file.readline(ENTRY_MAX_BYTES)) if middle else 0
        start = max(0, middle - 1) + skipped
        line = file.readline(ENTRY_MAX_BYTES) if start < high else b""
        if line and _decode(line[:-1], EMPTY).number < number:
            low = start + len(line)
        else:
            high = middle
    return low


def operator() -> str:
    """Return the user of this process and the host, as the log names an operator."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

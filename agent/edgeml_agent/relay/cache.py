"""The payloads that a relay has pulled, by wire key, bounded on the disk; the least recently used are removed first.

A payload is opaque here: a whole chunk, a delta or an encrypted one. The cache checks that it returns the bytes that
were put in; the devices check the chunk. A lost payload costs another pull, so nothing is synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from edgeml_core.errors import DeviceError, RejectedError

FOLDER_NAME: Final = "relay"
_DIGEST_BYTES: Final = 32
_NEW_SUFFIX: Final = ".new"


class Cache:
    """Payloads in a folder; see `edgeml_origin.origin.Store`. Any thread may call.

    Raises:
        DeviceError: `store-failed`, from `put` and at the start, when the folder can't be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        #: Sizes by file name, the least recently used first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for path in held:
                if path.suffix == _NEW_SUFFIX:  # a power cut left it
                    _unlink(path)
                else:
                    self._count(path.name, path.stat().st_size)
        except OSError as error:
            raise _failed(error) from error

    def has(self, key: str) -> bool:
        """Return whether the cache holds the payload for a key."""
        return _name(key) in self._sizes

    def wire(self, key: str) -> bytes:
        """Return the payload for a key.

        Raises:
            RejectedError: `digest-mismatch`, when it is missing or damaged; the cache then forgets it.
        """
        name = _name(key)
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            data = b""
        payload = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != hashlib.sha256(payload).digest():
            self.drop(key)
            raise RejectedError("digest-mismatch", f"the relay's copy for {key[:12]} is missing or damaged")
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Keep a payload, and remove the least recently used where there is no room, also where the disk is full."""
        name, data = _name(key), hashlib.sha256(payload).digest() + payload
        while True:
            try:
                self._write(name, data)
                break
            except OSError as error:
                with self._lock:
                    if error.errno not in {ENOSPC, EDQUOT} or not self._sizes:
                        raise _failed(error) from error
                    self._remove(next(iter(self._sizes)))
        with self._lock:
            self._count(name, len(data))

    def drop(self, key: str) -> None:
        """Remove a payload."""
        with self._lock:
            self._remove(_name(key))

    def _write(self, name: str, data: bytes) -> None:
        temporary = (self._folder / name).with_suffix(_NEW_SUFFIX)
        try:
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        except OSError:
            _unlink(temporary)
            raise

    def _count(self, name: str, size_bytes: int) -> None:
        self._used_bytes += size_bytes - self._sizes.pop(name, 0)
        self._sizes[name] = size_bytes
        while self._used_bytes > self._max_bytes and len(self._sizes) > 1:
            self._remove(next(iter(self._sizes)))

    def _remove(self, name: str) -> None:
        self._used_bytes -= self._sizes.pop(name, 0)
        _unlink(self._folder / name)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only card keeps the file, and a later process counts it again
        path.unlink()


def _name(key: str) -> str:
    return key.replace("/", "-")


def _failed(error: OSError) -> DeviceError:
    hint = "check [store] dir, and leave room for [relay] max_bytes"
    return DeviceError("store-failed", f"the relay's cache failed: {error}", hint)

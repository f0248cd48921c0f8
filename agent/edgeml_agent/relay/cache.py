"""What a relay has pulled: payloads by wire key, bounded on the disk, the longest unused first to go.

A payload is opaque here: a whole chunk, a difference or an encrypted one. Only that it is what was put in is checked;
what it is worth, the devices find out. Losing it costs another pull, so nothing is synced.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from edgeml_core.errors import DeviceError, RejectedError

FOLDER_NAME: Final = "relay"
_DIGEST_BYTES: Final = 32
_BESIDE: Final = ".new"


class Cache:
    """Payloads in a folder; see `edgeml_origin.origin.Store`. Any thread may call.

    Raises:
        DeviceError: `store-failed`, from `put` and at the start, when the folder can't be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        #: Sizes by file name, the longest unused first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = [path for path in folder.iterdir() if path.suffix != _BESIDE]
            for path in sorted(held, key=lambda path: path.stat().st_mtime_ns):
                self._note(path.name, path.stat().st_size)
        except OSError as error:
            raise _failed(error) from error

    def has(self, key: str) -> bool:
        """Whether the payload for a key is here."""
        return _name(key) in self._sizes

    def wire(self, key: str) -> bytes:
        """The payload for a key.

        Raises:
            RejectedError: `digest-mismatch`, when it is lost or was damaged here; then it is gone.
        """
        name = _name(key)
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            data = b""
        payload = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != hashlib.sha256(payload).digest():
            self.drop(key)
            raise RejectedError("digest-mismatch", f"the relay's copy for {key[:12]} is lost or damaged")
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Keep a payload, and let the longest unused go where there is no room."""
        name, data = _name(key), hashlib.sha256(payload).digest() + payload
        path = self._folder / name
        try:
            beside = path.with_suffix(_BESIDE)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError as error:
            raise _failed(error) from error
        with self._lock:
            self._note(name, len(data))

    def drop(self, key: str) -> None:
        """Keep a payload no longer."""
        with self._lock:
            self._remove(_name(key))

    def _note(self, name: str, size_bytes: int) -> None:
        self._used_bytes += size_bytes - self._sizes.pop(name, 0)
        self._sizes[name] = size_bytes
        while self._used_bytes > self._max_bytes and len(self._sizes) > 1:
            self._remove(next(iter(self._sizes)))

    def _remove(self, name: str) -> None:
        self._used_bytes -= self._sizes.pop(name, 0)
        (self._folder / name).unlink(missing_ok=True)


def _name(key: str) -> str:
    return key.replace("/", "-")


def _failed(error: OSError) -> DeviceError:
    hint = "check [store] dir, and leave room for [relay] max_bytes"
    return DeviceError("store-failed", f"the relay's cache failed: {error}", hint)

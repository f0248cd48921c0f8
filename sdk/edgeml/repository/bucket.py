"""Chunks in a bucket of S3, or of another server that speaks its protocol: the adapter to s3fs.

The objects are named like the files of a folder of chunks, `PREFIX/ab/ab12...`. Credentials, region and the server's
address come from where AWS's own programs find them: the variables AWS_*, ~/.aws, or the machine's role.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from aiohttp import ClientError as ConnectionFault
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from s3fs import S3FileSystem

from edgeml.repository.store import BATCH_CHUNKS, StoredChunk
from edgeml_core.errors import TransportError

#: Seconds for one chunk, which devices wait for; for the chunks of a batch; and for a list of all.
CHUNK_MAX_S: Final = 5.0
BATCH_MAX_S: Final = 40.0
LIST_MAX_S: Final = 600.0
#: Seconds without requests after one that got no answer, so that those that wait don't each take their time.
PAUSE_S: Final = 2.0
_CONFIG: Final = {
    "connect_timeout": 3,
    "read_timeout": 15,
    # Each request has a connection of its own.
    "max_pool_connections": BATCH_CHUNKS,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    # Each chunk has a digest. Servers other than AWS's may not know these checksums.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
_UNANSWERED: Final = (OSError, NoConnectionError, HTTPClientError, ResponseParserError, ConnectionFault)
#: All that s3fs raises; botocore has ValueError for an address that is none.
_FOREIGN: Final = (*_UNANSWERED, BotoCoreError, ClientError, ValueError)
_NAME: Final = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})")
_SERVER_FAULT: Final = 500
#: The server's codes for an object that doesn't exist, or is empty.
_ABSENT: Final = {"NoSuchKey", "404", "InvalidRange"}


class Bucket:
    """See `edgeml.repository.store.Storage`.

    Args:
        url: `s3://BUCKET/PREFIX`.

    Raises:
        TransportError: `chunks-refused`, when the profile or the address that the environment names can't be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._root = url.removeprefix("s3://")
        self._system = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=_CONFIG)
        self._system.retries = 1  # botocore's are enough
        self._paused_until_s = 0.0
        with self._translated():
            self._system.connect(timeout=BATCH_MAX_S)  # takes a second, which no chunk is to wait for

    def __str__(self) -> str:
        return self._url

    def read(self, chunk_ids: Sequence[str], max_bytes: int) -> list[bytes]:
        """See `Storage.read`."""
        paths = [self._path(it) for it in chunk_ids]
        options = {"batch_size": BATCH_CHUNKS, "timeout": CHUNK_MAX_S if len(paths) == 1 else BATCH_MAX_S}
        with self._translated():
            found = self._system.cat(paths, start=0, end=max_bytes, on_error="return", **options)
        return [self._payload(found[path]) for path in paths]

    def write(self, payloads: Mapping[str, bytes]) -> None:
        """See `Storage.write`."""
        by_path = {self._path(chunk_id): payload for chunk_id, payload in payloads.items()}
        with self._translated():
            self._system.pipe(by_path, batch_size=BATCH_CHUNKS, timeout=BATCH_MAX_S)

    def sync(self) -> None:
        """See `Storage.sync`: the server has done so before it answered."""

    def stored(self) -> list[StoredChunk]:
        """See `Storage.stored`; objects with other names aren't listed."""
        with self._translated():
            found = self._system.find(self._root, detail=True, timeout=LIST_MAX_S)
        named = ((_NAME.fullmatch(path.removeprefix(f"{self._root}/")), it) for path, it in found.items())
        return [StoredChunk(name[2], it["size"], it["LastModified"].timestamp()) for name, it in named if name]

    def remove(self, chunk_ids: Iterable[str]) -> None:
        """See `Storage.remove`. One at a time: of those in one request s3fs reports no failure."""
        with ThreadPoolExecutor(BATCH_CHUNKS) as threads:
            for _ in threads.map(self._remove, chunk_ids):
                pass

    def _remove(self, chunk_id: str) -> None:
        with self._translated():
            self._system.rm_file(self._path(chunk_id), timeout=BATCH_MAX_S)

    def _path(self, chunk_id: str) -> str:
        return f"{self._root}/{chunk_id[:2]}/{chunk_id}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise errors of s3fs as ours; without a request, while the last one has just got no answer."""
        if time.monotonic() < self._paused_until_s:
            raise self._unreachable("the last request got no answer")
        try:
            yield
        except _FOREIGN as error:
            raise self._error(error) from error

    def _payload(self, found: bytes | Exception) -> bytes:
        if isinstance(found, bytes):
            return found
        if _answer(found)[1] in _ABSENT:
            return b""
        raise self._error(found) from found

    def _error(self, error: Exception) -> TransportError:
        status, code = _answer(error)
        if code == "NoSuchBucket":
            hint = "make the bucket, or correct `chunks` in repo.toml"
            return TransportError("chunks-refused", f"there is no bucket of {self._url}", hint)
        if status >= _SERVER_FAULT or (not status and isinstance(error, _UNANSWERED)):
            self._paused_until_s = time.monotonic() + PAUSE_S
            return self._unreachable(str(error) or "no answer in time")
        hint = "name credentials that may list, read, write and delete there, by AWS_PROFILE or AWS_ACCESS_KEY_ID and "
        hint += "AWS_SECRET_ACCESS_KEY; check AWS_ENDPOINT_URL_S3"
        return TransportError("chunks-refused", f"{self._url}: {error}", hint)

    def _unreachable(self, cause: str) -> TransportError:
        hint = "check the network and AWS_ENDPOINT_URL_S3; devices ask again by themselves"
        return TransportError("chunks-unreachable", f"{self._url} can't be reached: {cause}", hint)


def _answer(error: BaseException) -> tuple[int, str]:
    """Return the server's status and its code of the error, which s3fs keeps as the cause; without an answer 0."""
    for it in (error, error.__cause__):
        if isinstance(it, ClientError):
            return int(it.response["ResponseMetadata"]["HTTPStatusCode"]), it.response["Error"].get("Code", "")
    return 0, ""

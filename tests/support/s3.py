"""A server of S3's protocol as a process: moto's. It can be held, as if the network were away."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from edgeml.repository import layout
from support import server_processes
from support.ports import free_port

BUCKET = "chunks"
#: Where a repository's chunks lie there.
URL = f"s3://{BUCKET}/farm"


class Server:
    """A running server, which the variables AWS_* name."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid = pid
        self._port = port

    def files(self) -> S3FileSystem:
        """Its objects, by a client of their own."""
        return S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def hold(self) -> None:
        """Let it take connections, and answer nothing."""
        os.kill(self._pid, signal.SIGSTOP)

    def release(self) -> None:
        """Let it answer again."""
        os.kill(self._pid, signal.SIGCONT)

    def refuse_strangers(self) -> None:
        """Refuse, from now on, keys that it hasn't given out."""
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        link.request("POST", "/moto-api/reset-auth", b"0")
        assert link.getresponse().status == http.client.OK
        link.close()


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server with an empty bucket, for the time of a block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        server_processes.running(command, port, "/moto-api/", folder / "s3.log") as process,
    ):
        for name, value in {
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        running = Server(process.pid, port)
        running.files().mkdir(BUCKET)
        try:
            yield running
        finally:
            running.release()


def store_chunks_at(repo: Path, url: str = URL) -> None:
    """Let a repository's chunks lie in S3."""
    path = repo / layout.CONFIG_FILE
    path.write_text(f'chunks = "{url}"\n{path.read_text()}')

"""Chunks over HTTP: a device fetches a release from a plain file server, and the broker carries no chunk."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeml.repository import offline
from support.delivery_site import Site, site, until

WEIGHTS_BYTES = 3_000_000


class Quiet(SimpleHTTPRequestHandler):
    """A plain file server, with connections that stay open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def files(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def fetch(made: Site, url: str) -> list[str]:
    """Let the device fetch a release of about 46 chunks; return the chunks that the broker carried."""
    with made.config.open("a") as config:
        config.write(f'\n[fetch]\nhttp = "{url}"\n')
    made.deploy("1.0")
    made.start_host()
    made.start_agent()
    made.observer.await_report(state="active", version="1.0")
    until(lambda: made.answers(21.0), "version 1.0 answers")
    return made.observer.chunks()


@pytest.mark.nightly
@pytest.mark.parametrize("is_whole", [True, False])
def test_broker_carries_only_chunks_that_the_mirror_lacks(tmp_path: Path, is_whole: bool):
    """None where it is whole; where a file is missing and another damaged, these two."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1, weights_bytes=WEIGHTS_BYTES)
        mirror = tmp_path / "mirror"
        assert offline.mirror(made.repo, mirror) >= WEIGHTS_BYTES // 65_536
        bad = [] if is_whole else sorted(mirror.glob("??/*"))[:2]
        for path, content in zip(bad, (None, b"\0damaged"), strict=False):
            path.unlink() if content is None else path.write_bytes(content)
        with files(mirror) as url:
            carried = fetch(made, url)
        assert sorted({it.partition("/")[0] for it in carried}) == [it.name for it in bad]

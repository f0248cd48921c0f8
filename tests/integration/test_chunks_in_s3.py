"""A repository's chunks in S3: what lies there, what is verified, and what devices get while the server is away."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository import bucket, chunk_ids, layout, offline, pruning, store
from edgeml.repository.bucket import Bucket
from edgeml.repository.deployments import deploy
from edgeml.repository.releases import publish, releases
from edgeml.repository.store import ChunkStore
from edgeml.repository.withdrawals import withdraw
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError, TransportError, UsageError
from support import brokers, postgresql, s3
from support.delivery_site import FLEET
from support.light_agents import LightAgent, connected, fetch_all, published
from support.programs import host_command, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import until_async

pytestmark = [pytest.mark.anyio]

CHUNK = b"a chunk" * 100
CHUNK_ID = wire_keys.chunk_id(chunks.sha256(CHUNK))
ABSENT_ID = "0" * 32


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """One server for the module."""
    with s3.server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_chunks_lie_in_the_bucket_and_are_verified(server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Publishing stores each once, and mends what is damaged or lost; nothing else of the bucket is touched."""
    monkeypatch.setattr(store, "BATCH_CHUNKS", 3)
    repository.init(repo := tmp_path / "repo", secret="")
    s3.store_chunks_at(repo, url := f"s3://{s3.BUCKET}/whole/way")
    files, root = server.files(), url.removeprefix("s3://")
    bundles = {}
    for seed, version in enumerate(("1", "2")):
        bundles[version] = tmp_path / f"{version}.edgeml"
        tiny_onnx_bundle(bundles[version], version=version, seed=seed, weights_bytes=500_000)
        (added,) = publish(repo, [bundles[version]])
        assert added.stored_bytes > 100_000
    folder = layout.opened(repo)
    ids = {it for release in releases(folder) for it in chunk_ids.stored(release)}
    assert {path.rpartition("/")[2] for path in files.find(root)} == ids
    assert not list((repo / "chunks").rglob("*"))
    assert [publish(repo, [it])[0].stored_bytes for it in bundles.values()] == [0, 0]

    damaged, lost, *_ = sorted(chunk_ids.stored(releases(folder)[1]))
    files.pipe(f"{root}/{damaged[:2]}/{damaged}", b"\0damaged")
    files.rm(f"{root}/{lost[:2]}/{lost}")
    for chunk_id in (damaged, lost):
        with pytest.raises(RejectedError, match=chunk_id[:12]):
            folder.chunks.wire(chunk_id)
    with pytest.raises(UsageError, match="removed"):
        deploy(repo, "tiny", version="2", selector="", allow_empty=True)
    assert publish(repo, [bundles["2"]])[0].stored_bytes > 0
    assert offline.mirror(repo, tmp_path / "web") == len(ids)

    files.pipe(f"{root}/mine/of-another", b"kept")
    withdraw(repo, "tiny", "2")
    later = layout.utc_now() + pruning.UNNAMED_KEPT + timedelta(days=1)
    assert pruning.prune(repo, now=later).chunks > 5
    assert {path.rpartition("/")[2] for path in files.find(root)} == {
        *chunk_ids.stored(releases(folder)[0]),
        "of-another",
    }


def test_a_missing_bucket_and_an_empty_object(server: s3.Server):
    """The first is named, with the setting; the second is a damaged chunk."""
    with pytest.raises(TransportError, match="no bucket") as caught:
        ChunkStore(Bucket("s3://nowhere/farm")).wire(CHUNK_ID)
    assert (caught.value.code, "repo.toml" in caught.value.hint) == ("chunks-refused", True)
    for call in (Bucket("s3://nowhere").stored, lambda: ChunkStore(Bucket("s3://nowhere")).add([CHUNK])):
        with pytest.raises(TransportError, match="no bucket"):
            call()
    kept = ChunkStore(Bucket(s3.URL))
    assert kept.missing([CHUNK_ID, ABSENT_ID]) == [CHUNK_ID, ABSENT_ID]
    server.files().pipe(f"{s3.BUCKET}/farm/{CHUNK_ID[:2]}/{CHUNK_ID}", b"")
    with pytest.raises(RejectedError):
        kept.wire(CHUNK_ID)
    assert kept.add([CHUNK, CHUNK]) == len(chunks.to_wire(CHUNK))
    assert kept.chunk(CHUNK_ID) == CHUNK


def test_a_server_that_is_away_costs_a_bounded_time(server: s3.Server, monkeypatch: pytest.MonkeyPatch):
    """One that holds its requests, and one that isn't there; those that come just after don't wait for it."""
    kept = ChunkStore(Bucket(s3.URL))
    kept.add([CHUNK])
    server.hold()
    try:
        # The second call would wait for a minute, did it not come just after the first one.
        for chunk_max_s in (1.0, 60.0):
            monkeypatch.setattr(bucket, "CHUNK_MAX_S", chunk_max_s)
            begun_s = time.monotonic()
            with pytest.raises(TransportError) as caught:
                kept.wire(CHUNK_ID)
            assert caught.value.code == "chunks-unreachable"
            assert time.monotonic() - begun_s < 15.0
    finally:
        server.release()
    time.sleep(bucket.PAUSE_S)
    assert kept.chunk(CHUNK_ID) == CHUNK
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:9") as caught:
        ChunkStore(Bucket(s3.URL)).wire(CHUNK_ID)
    assert caught.value.code == "chunks-unreachable"


@pytest.mark.nightly
def test_refused_and_missing_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both say which credentials are wanted."""
    with s3.server(tmp_path) as server:
        ChunkStore(Bucket(s3.URL)).add([CHUNK])
        server.refuse_strangers()
        refused = ChunkStore(Bucket(s3.URL))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        missing = ChunkStore(Bucket(s3.URL))
        for kept in (missing, refused):
            with pytest.raises(TransportError) as caught:
                kept.wire(CHUNK_ID)
            assert caught.value.code == "chunks-refused"
            assert "AWS_ACCESS_KEY_ID" in caught.value.hint


@pytest.mark.nightly
async def test_hosts_deliver_from_a_bucket_that_is_away_for_a_while(server: s3.Server, tmp_path: Path):
    """Two hosts have no folder with chunks. The bucket gives no answer for some seconds, then a host is killed."""
    names = ["pi-1", "pi-2"]
    with postgresql.postgresql() as database, brokers.mosquitto(tmp_path / "broker") as broker, programs() as hosts:
        repository.init(repo := tmp_path / "repo", fleet=FLEET, secret="")
        s3.store_chunks_at(repo)
        release = published(repo, names, weights_bytes=8_000_000)
        command = (*host_command(repo, broker.url), "--database", database.url, "--max-bytes-per-s", "1000000")
        logs = [tmp_path / f"host-{number}.log" for number in range(2)]
        for log in logs:
            hosts.start(log, *command)
        await until_async(lambda: any("announced" in it.read_text() for it in logs), "the announcement")
        agents = [LightAgent(tmp_path / "devices", name, broker.url) for name in names]
        async with connected(agents):
            fetching = asyncio.create_task(fetch_all(agents, release))
            await until_async(lambda: len(list((tmp_path / "devices").rglob("*"))) > 0, "the first files")
            await asyncio.sleep(1.0)
            server.hold()
            await asyncio.sleep(8.0)
            assert not fetching.done()
            server.release()
            await asyncio.sleep(1.0)
            hosts[0].kill()
            took_s = await fetching
    print(took_s)
    said = "".join(it.read_text() for it in logs)
    assert "chunks can't be read, so devices wait" in said
    assert not re.search(r"Traceback|internal-error", said), said
    assert not list((repo / "chunks").rglob("*"))

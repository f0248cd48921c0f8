"""The receiver's window, over an origin that loses and damages chunks."""

import asyncio
import io
import threading
import time

import numpy as np
import pytest

from edgeml_agent.fetch import flow_control
from edgeml_agent.fetch.chunk_requests import DELTA_TRIES, LATER_DELTA_TRIES, ChunkRequests
from edgeml_agent.fetch.window import BAD_COPIES_MAX, SILENCES_MAX, Fetch
from edgeml_agent.store.releases import DeltaBases, Release, Releases
from edgeml_core import bundle, chunks, wire_keys
from edgeml_core import manifest as manifests
from edgeml_core.errors import TransportError
from edgeml_io import files
from support.fakes import MemoryOrigin
from support.samples import a_manifest

HALF = chunks.CHUNK_BYTES // 2
#: Each chunk is half noise, half zeros.
WEIGHTS = b"".join(np.random.default_rng(number).bytes(HALF) + bytes(HALF) for number in range(40)) + b"tail"
FILES = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": WEIGHTS}
DIGESTS = [chunks.sha256(chunk) for content in FILES.values() for chunk in chunks.split(content)]


def a_release(files):
    """A release of these files."""
    entries = tuple(bundle.describe(path, io.BytesIO(content)) for path, content in files.items())
    data = manifests.encode(a_manifest(files=entries))
    return Release(digest=chunks.sha256(data), manifest_bytes=data, manifest=manifests.decode(data))


@pytest.fixture
def releases(tmp_path):
    """A device's folder with room."""
    return Releases(tmp_path, 1 << 30)


@pytest.fixture
def partial(releases):
    """A release of 43 chunks, of which none is here."""
    return releases.begin(a_release(FILES), keep=[])


@pytest.fixture
def origin():
    """An origin that has them all."""
    origin = MemoryOrigin()
    for content in FILES.values():
        origin.add(content)
    return origin


def fetch(partial, origin, bases=None):
    """Fetch what is missing; all notices, the last one being the result."""
    notices = []
    requests = ChunkRequests(bases or DeltaBases(partial.release.manifest))
    run = Fetch(partial, origin, missing=partial.missing(), requests=requests, on_progress=notices.append)
    return [*notices, asyncio.run(run.run())]


def test_fetch_requests_every_chunk_once(partial, origin):
    """On a good road, never more than a window at a time, and all topics are left at the end."""
    progress = fetch(partial, origin)[-1]
    assert origin.wanted == DIGESTS
    assert flow_control.FIRST_CHUNKS < origin.in_flight_most <= flow_control.MOST_CHUNKS
    assert sorted(origin.dropped) == sorted(DIGESTS)
    assert progress.done_bytes == progress.total_bytes == sum(map(len, FILES.values()))
    assert 0 < progress.wire_bytes < progress.total_bytes
    partial.verify()


def test_fetch_requests_missing_chunks_only(partial, origin):
    """And what was held counts as done from the first notice on."""
    for digest in DIGESTS[:20]:
        partial.put(digest, origin.stored[digest])
    notices = fetch(partial, origin)
    assert origin.wanted == DIGESTS[20:]
    assert notices[0].done_bytes > 17 * chunks.CHUNK_BYTES
    assert notices[-1].done_bytes == notices[-1].total_bytes


def test_lost_chunk_is_requested_again(partial, origin):
    """After a silence; also the same one several times."""
    origin.lost = {DIGESTS[0]: SILENCES_MAX - 1, DIGESTS[30]: 1, DIGESTS[-1]: 2}
    fetch(partial, origin)
    partial.verify()


def test_overtaken_chunk_is_requested_again_without_a_silence(partial, origin, monkeypatch):
    """One loss in a stream of chunks doesn't wait for the end."""
    monkeypatch.setattr(flow_control, "OVERTAKEN_S", 0.0)
    monkeypatch.setattr(flow_control, "MOST_CHUNKS", 8)
    origin.lost = {DIGESTS[0]: 1}
    origin.receive = without_silence(origin.receive)
    fetch(partial, origin)
    partial.verify()


def without_silence(receive):
    """A road on which something always comes."""

    async def received(timeout_s):
        arrival = await receive(timeout_s)
        assert arrival is not None, "it fell silent"
        return arrival

    return received


def test_fetch_fails_after_the_last_silence(partial, origin):
    """With all that came on the disk."""
    origin.lost = {DIGESTS[5]: 1000}
    with pytest.raises(TransportError) as caught:
        fetch(partial, origin)
    assert caught.value.code == "chunk-timeout"
    assert partial.missing() == [DIGESTS[5]]


def test_damaged_copy_is_requested_again(partial, origin):
    """One less than the bound is borne."""
    origin.bad = {DIGESTS[3]: BAD_COPIES_MAX - 1}
    fetch(partial, origin)
    assert origin.wanted.count(DIGESTS[3]) == BAD_COPIES_MAX
    partial.verify()


def test_fetch_fails_after_the_last_bad_copy(partial, origin):
    """It says nothing against the release; and nothing of the damaged copies is on the disk."""
    origin.bad = {DIGESTS[3]: BAD_COPIES_MAX}
    with pytest.raises(TransportError) as caught:
        fetch(partial, origin)
    assert caught.value.code == "digest-mismatch"
    assert DIGESTS[3] in partial.missing()


def test_unrequested_chunk_is_ignored(partial, origin):
    """A publication for another device, or of a rogue."""
    asyncio.run(origin.want([wire_keys.chunk_id(DIGESTS[0])]))
    origin.add(b"unwanted")
    asyncio.run(origin.want([wire_keys.chunk_id(chunks.sha256(b"unwanted"))]))
    fetch(partial, origin)
    partial.verify()


OLD_FILES = FILES | {
    "model.weights": bytes(byte ^ (index % 1000 == 0) for index, byte in enumerate(WEIGHTS[:-4] + b"head"))
}


@pytest.fixture
def held(releases, partial):
    """The version before, whole: its weights differ a little in every chunk."""
    old = releases.begin(a_release(OLD_FILES), keep=[partial.release.digest])
    for content in OLD_FILES.values():
        for chunk in chunks.split(content):
            old.put(chunks.sha256(chunk), chunk)
    releases.finish(old)
    return old.release


@pytest.fixture
def bases(releases, partial, held):
    """What differences can be made to."""
    return releases.bases(partial.release, [held.digest])


def knows_old_chunks(origin):
    """An origin of both versions."""
    for content in OLD_FILES.values():
        origin.add(content)


def whole_keys(keys):
    """Those that ask for whole chunks."""
    return [key for key in keys if not wire_keys.has_base(key)]


def test_fetch_requests_deltas_to_the_version_before(releases, partial, origin, held, bases):
    """Once each; it is all that comes over the wire."""
    knows_old_chunks(origin)
    missing = releases.reuse(partial, partial.missing(), [held.digest])
    progress = fetch(partial, origin, bases)[-1]
    assert [wire_keys.ids(key)[0] for key in origin.keys] == [wire_keys.chunk_id(digest) for digest in missing]
    assert whole_keys(origin.keys) == []
    assert progress.wire_bytes < 200 * len(missing)
    partial.verify()


def test_bad_delta_is_followed_by_a_request_for_the_whole_chunk(partial, origin, bases):
    """At once; the others' differences are wanted still, and whole copies have their own bound."""
    knows_old_chunks(origin)
    origin.bad = {DIGESTS[3]: BAD_COPIES_MAX}
    fetch(partial, origin, bases)
    assert whole_keys(origin.keys) == [wire_keys.chunk_id(DIGESTS[3])] * BAD_COPIES_MAX
    partial.verify()


def test_lost_delta_is_requested_again(partial, origin, bases):
    """Others have come, so it is no riddle to the origin: the whole chunk would cost many times as much."""
    knows_old_chunks(origin)
    origin.lost = {DIGESTS[3]: SILENCES_MAX - 1}
    fetch(partial, origin, bases)
    assert whole_keys(origin.keys) == []
    partial.verify()


def test_delta_that_never_arrives_is_given_up_for_the_whole_chunk(origin, bases):
    """After so many tries."""
    knows_old_chunks(origin)
    requests = ChunkRequests(bases)

    async def comes(digest):
        await origin.want([requests.key(digest)])
        requests.chunk(await origin.receive(0))

    asyncio.run(comes(DIGESTS[0]))
    keys = []
    for _ in range(LATER_DELTA_TRIES + 1):
        keys.append(requests.key(DIGESTS[3]))
        requests.on_loss(keys[-1])
    assert whole_keys(keys) == keys[LATER_DELTA_TRIES:]


def test_origin_without_the_version_before_is_asked_for_whole_chunks(releases, partial, origin, held, bases):
    """It is tried with the first window, not with each."""
    releases.reuse(partial, partial.missing(), [held.digest])
    fetch(partial, origin, bases)
    differences = len(origin.keys) - len(whole_keys(origin.keys))
    assert 0 < differences <= DELTA_TRIES * flow_control.FIRST_CHUNKS
    partial.verify()


def test_damaged_base_is_followed_by_the_whole_chunk(releases, partial, origin, held, bases):
    """The difference to it makes another chunk than is wanted; the whole one comes."""
    knows_old_chunks(origin)
    path = releases.folder(held.digest) / "model.weights"
    path.write_bytes(bytes(100) + path.read_bytes()[100:])
    fetch(partial, origin, bases)
    assert len(whole_keys(origin.keys)) == 1
    partial.verify()


def test_late_fetch_begins_at_the_position(partial, origin):
    """After the chunk that was sent last, then round to the beginning; the wave is followed as long as that lasts."""
    origin.position = wire_keys.chunk_id(DIGESTS[20])
    fetch(partial, origin)
    assert origin.wanted == DIGESTS[21:] + DIGESTS[:21]
    assert origin.followed == [wire_keys.chunk_id(partial.release.digest), ""]
    partial.verify()


def test_fetch_cancelled_while_a_chunk_is_written_ends_in_order(partial, origin, monkeypatch):
    """At a stop or a newer deployment: an error in place of the cancellation would end the update for good."""
    put, sync, writing, may_end = partial.put, files.sync, threading.Event(), threading.Event()

    def slow_put(digest, chunk):
        if digest == DIGESTS[1]:
            writing.set()
            assert may_end.wait(60)
        return put(digest, chunk)

    def slow_sync(path):
        time.sleep(0.3)
        sync(path)

    monkeypatch.setattr(partial, "put", slow_put)
    monkeypatch.setattr(files, "sync", slow_sync)
    requests = ChunkRequests(DeltaBases(partial.release.manifest))
    run = Fetch(partial, origin, missing=partial.missing(), requests=requests, on_progress=lambda _: None)

    async def stop():
        running = asyncio.create_task(run.run())
        await asyncio.to_thread(writing.wait)
        running.cancel()
        asyncio.get_running_loop().call_later(0.1, may_end.set)
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stop())
    assert partial.missing() == DIGESTS[2:]

"""The receiver's window, over an origin that loses and damages chunks."""

import asyncio
import io

import pytest

from edgeml_agent.fetch import BAD_COPIES_MAX, SILENCES_MAX, WINDOW_CHUNKS, Fetch
from edgeml_agent.releases import Release, Releases
from edgeml_core import bundle, chunks, wirekeys
from edgeml_core import manifest as manifests
from edgeml_core.errors import RejectedError, TransportError
from fakes import MemoryOrigin
from samples import a_manifest

WEIGHTS = b"".join(number.to_bytes(4, "big") * (chunks.CHUNK_BYTES // 4) for number in range(40)) + b"tail"
FILES = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": WEIGHTS}
DIGESTS = [chunks.sha256(chunk) for content in FILES.values() for chunk in chunks.split(content)]


@pytest.fixture
def partial(tmp_path):
    """A release of 43 chunks, of which none is here."""
    entries = tuple(bundle.describe(path, io.BytesIO(content)) for path, content in FILES.items())
    data = manifests.encode(a_manifest(files=entries))
    release = Release(digest=chunks.sha256(data), manifest_bytes=data, manifest=manifests.decode(data))
    return Releases(tmp_path, 1 << 30).begin(release, keep=[])


@pytest.fixture
def origin():
    """An origin that has them all."""
    origin = MemoryOrigin()
    for content in FILES.values():
        origin.add(content)
    return origin


def fetch(partial, origin, missing=None):
    """Fetch what is missing; all notices, the last one being the result."""
    notices = []
    run = Fetch(partial, origin, missing=partial.missing() if missing is None else missing, notice=notices.append)
    return [*notices, asyncio.run(run.run())]


def test_every_chunk_is_wanted_once(partial, origin):
    """On a good road, never more than a window at a time, and all topics are left at the end."""
    progress = fetch(partial, origin)[-1]
    assert origin.wanted == DIGESTS
    assert origin.in_flight_most == WINDOW_CHUNKS
    assert sorted(origin.dropped) == sorted(DIGESTS)
    assert progress.done_bytes == progress.total_bytes == sum(map(len, FILES.values()))
    assert 0 < progress.wire_bytes < progress.total_bytes
    partial.verify()


def test_only_what_is_missing_is_wanted(partial, origin):
    """And what was held counts as done from the first notice on."""
    for digest in DIGESTS[:20]:
        partial.put(digest, origin.stored[digest])
    notices = fetch(partial, origin)
    assert origin.wanted == DIGESTS[20:]
    assert notices[0].done_bytes > 17 * chunks.CHUNK_BYTES
    assert notices[-1].done_bytes == notices[-1].total_bytes


def test_lost_chunks_are_wanted_again(partial, origin):
    """After a silence; also the same one several times."""
    origin.lost = {DIGESTS[0]: SILENCES_MAX - 1, DIGESTS[30]: 1, DIGESTS[-1]: 2}
    fetch(partial, origin)
    partial.verify()


def test_a_chunk_that_others_overtake_is_wanted_again_without_a_silence(partial, origin):
    """One loss in a stream of chunks doesn't wait for the end."""
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


def test_the_road_is_given_up_after_so_many_silences(partial, origin):
    """With all that came on the disk."""
    origin.lost = {DIGESTS[5]: 1000}
    with pytest.raises(TransportError) as caught:
        fetch(partial, origin)
    assert caught.value.code == "chunk-timeout"
    assert partial.missing() == [DIGESTS[5]]


def test_damaged_copies_are_wanted_again(partial, origin):
    """One less than the bound is borne."""
    origin.bad = {DIGESTS[3]: BAD_COPIES_MAX - 1}
    fetch(partial, origin)
    assert origin.wanted.count(DIGESTS[3]) == BAD_COPIES_MAX
    partial.verify()


def test_a_source_that_keeps_damaging_a_chunk_is_refused(partial, origin):
    """And nothing of the damaged copies is on the disk."""
    origin.bad = {DIGESTS[3]: BAD_COPIES_MAX}
    with pytest.raises(RejectedError) as caught:
        fetch(partial, origin)
    assert caught.value.code == "digest-mismatch"
    assert DIGESTS[3] in partial.missing()


def test_what_nobody_wanted_is_ignored(partial, origin):
    """A publication for another device, or of a rogue."""
    asyncio.run(origin.want([wirekeys.chunk_id(DIGESTS[0])]))
    origin.add(b"unwanted")
    asyncio.run(origin.want([wirekeys.chunk_id(chunks.sha256(b"unwanted"))]))
    fetch(partial, origin)
    partial.verify()

"""Random lives of a device: whatever is deployed, fails, or kills the agent, what answers was verified and probed."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeml_agent.store.releases import PartialRelease
from edgeml_core import chunks, lifecycle
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_core.lifecycle import Event, State
from support.fakes import Bench, Killed
from support.samples import a_manifest
from support.scale import scaled

NAME = "sample"
#: How a version turns out: only the good ones may ever answer.
KINDS = ("good", "tampered", "crashes in the probe", "can't be loaded", "lost on the road")
#: Things done to the world before the agent is killed; None lets it live.
DEATHS = st.none() | st.integers(0, 30)
DEEDS = st.lists(st.tuples(st.sampled_from(KINDS), DEATHS, st.integers(0, 2)), min_size=1, max_size=8)


@given(st.lists(st.sampled_from(list(Event)), max_size=60))
def test_every_walk_through_the_table_verifies_and_probes_before_it_activates(events):
    """Between the last begin of an update and its activation lie all steps, in order."""
    state, passed = State.IDLE, []
    for event in events:
        with contextlib.suppress(ValueError):
            after = lifecycle.advance(state, event)
            passed = [] if after is State.RESOLVING else [*passed, event]
            state = after
        if state is State.ACTIVE and passed[-1:] == [Event.ACTIVATED]:
            assert passed == [Event.RESOLVED, Event.FETCHED, Event.VERIFIED, Event.PROBED, Event.ACTIVATED]


@given(DEEDS)
@settings(max_examples=scaled(200, 20))
def test_only_verified_and_probed_releases_ever_answer(deeds):
    """And once one has answered, one always does: after failures, after deaths at any moment, after restarts."""
    with tempfile.TemporaryDirectory() as folder:
        bench, good = Bench(Path(folder)), set()
        start(bench)
        for number, (kind, death, restarts) in enumerate(deeds):
            has_answered, version = bool(bench.server.live), f"{number}.0"
            good |= {version} if kind == "good" else set()
            go(bench, version, kind, death)
            check(bench, good, has_answered=has_answered)
            for _ in range(restarts):
                start(bench)
                check(bench, good, has_answered=has_answered)
        go(bench, "99.0", "good", None)
        assert bench.server.live == {NAME: "99.0"}


def start(bench):
    """What a new process does first."""
    bench.store.close()
    bench.start()
    asyncio.run(bench.daemon.start_serving())


def go(bench, version, kind, death):
    """Deploy a version of some kind, and let the agent go for it; when that kills it, it is started again."""
    content = files(version)
    wish = bench.deploy(NAME, version, bench.release(a_manifest(version=version), content))
    chunk = chunks.sha256(content["model.weights"][: chunks.CHUNK_BYTES])
    match kind:
        case "tampered":
            bench.origin.bad[chunk] = 99
        case "lost on the road":
            bench.origin.lost[chunk] = 99
        case "crashes in the probe":
            bench.prober.failures[version] = DeviceError("probe-crashed", "it crashed")
        case "can't be loaded":
            bench.server.failures.add(version)
    bench.life.left = death
    try:
        with contextlib.suppress(EdgemlError):
            asyncio.run(bench.agent.attempt(wish))
    except Killed:
        start(bench)
    bench.life.left = None


def files(version):
    """A bundle's files: one chunk of weights thrice, which no other version has, and some bytes that all have."""
    weights = version.encode().ljust(8) * (3 * chunks.CHUNK_BYTES // 8) + b"tail"
    return {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": weights}


def check(bench, good, *, has_answered):
    """What always holds."""
    record = bench.store.record(NAME)
    assert set(bench.server.live.values()) <= good & set(bench.prober.probed)
    assert bool(bench.server.live) or not has_answered
    assert record.state in set(State)
    for digest in filter(None, (record.active, record.previous)):
        release = bench.releases.read(digest)
        assert release.manifest.version in good
        assert bench.store.refusal(digest) is None
        PartialRelease(bench.releases.folder(digest), release).verify()
    if record.active:
        assert bench.server.live[NAME] == bench.releases.read(record.active).manifest.version

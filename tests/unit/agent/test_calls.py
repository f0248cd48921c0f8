"""Calls to a device: what is answered, what is refused, what is passed over. On memory ports, with a real store."""

import asyncio

import msgspec
import pytest

from edgeml_agent import log
from edgeml_agent.probe import remote_calls
from edgeml_core import messages
from edgeml_core.calls import Call, Reproduced
from edgeml_core.errors import DeviceError
from edgeml_core.lifecycle import State
from support.fakes import Bench
from support.samples import a_manifest
from support.waiting import until_async

ID = "0" * 31 + "1"
FILES = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": b"weights" * 100}


@pytest.fixture
def bench(tmp_path):
    """A device on which a release is active."""
    bench = Bench(tmp_path)
    bench.deploy("sample", "1", bench.release(a_manifest(version="1"), FILES))

    def is_active():
        return bench.store.record("sample").state is State.ACTIVE

    live(bench, until=is_active)
    return bench


def live(bench, *payloads, until):
    """A new process: run the agent, call it, stop when `until` holds."""
    bench.start()

    async def run():
        bench.link.calls = asyncio.Queue()
        running = asyncio.create_task(bench.daemon.run())
        bench.link.news.set()
        for payload in payloads:
            bench.link.calls.put_nowait(payload)
        await until_async(until)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def call(bench, **changes):
    """A call for what is active, or with something else in it."""
    given = {"id": ID, "session": 1, "kind": "verify", "manifest_sha256": bench.store.record("sample").active}
    return msgspec.json.encode(given | changes)


def replies(bench, *payloads, count=1):
    """What the device replies."""
    live(bench, *payloads, until=lambda: len(bench.link.replies) >= count)
    return bench.link.replies


def test_call_for_a_held_release_verifies_it(bench):
    """In the prober, and nothing of what serves is changed by it."""
    before = bench.store.records()
    (reply,) = replies(bench, call(bench))
    assert (reply.id, reply.reproduced, reply.refused) == (ID, Reproduced(min_cosine=1.0, max_abs=0.0), None)
    assert bench.prober.probed == ["1", "1"]
    assert bench.store.records() == before


def test_call_for_an_absent_release_runs_nothing(bench):
    """A digest that names nothing here, not even by its beginning; a release that is only half here."""
    active = bench.store.record("sample").active
    partial = "f" * 64
    (bench.releases.folder(partial).parent / f"{'f' * 32}.partial").mkdir()
    strange = [call(bench, manifest_sha256=digest) for digest in (active[:32] + "0" * 32, "e" * 64, partial)]
    for payload in strange:
        (reply,) = replies(bench, payload)
        assert reply.refused.code in {"release-absent", "store-failed"}
    assert bench.prober.probed == ["1"]


def test_call_for_a_failing_model_replies_its_error(bench):
    """With the code that the probe gave; the device goes on."""
    bench.prober.failures["1"] = DeviceError("golden-mismatch", "far off", "export it again")
    (reply,) = replies(bench, call(bench))
    assert (reply.refused.code, reply.refused.message) == ("golden-mismatch", "far off")


def test_call_without_enough_memory_runs_nothing(bench):
    """Memory that what serves may need isn't taken."""
    bench.prober.refusal = DeviceError("memory-short", "too large", "stop other programs")
    (reply,) = replies(bench, call(bench))
    assert reply.refused.code == "memory-short"
    assert bench.prober.probed == ["1"]


def test_call_during_another_is_refused(bench):
    """The second gets its reply at once, while the first still runs."""
    bench.prober.answers_go.clear()
    second = call(bench, id="2".rjust(32, "0"))
    (reply,) = replies(bench, call(bench), second)
    assert (reply.id, reply.refused.code) == ("2".rjust(32, "0"), "device-busy")


@pytest.mark.parametrize(
    "changes",
    [
        {"session": 2},
        {"id": "../etc"},
        {"id": ID + "\n"},
        {"kind": "run"},
        {"command": "reboot"},
        {"manifest_sha256": "../../" + "0" * 58},
        {"timing": {"seconds": 1e6}},
        {"timing": {"seconds": 0}},
        {"timing": {"case": 0}},
        {"timing": {"threads": 10**6}},
    ],
)
def test_call_of_another_session_is_ignored(bench, changes):
    """Late ones, malformed ones, ones that ask for too much: no reply, and the next is answered."""
    bad, good = call(bench, **changes), call(bench, id="a" * 32)
    (reply,) = replies(bench, bad, b"{", b"", b"\xff" * 100_000, good)
    assert reply.id == "a" * 32


def test_call_encoded_and_decoded_is_the_same(bench):
    """Encoded and decoded."""
    made = messages.decode(call(bench), Call)
    assert messages.decode(messages.encode(made), Call) == made


def test_call_with_a_defect_does_not_end_the_agent(bench):
    """What serves must go on: the reply says whose fault it was."""
    bench.prober.failures["1"] = ValueError("a defect")
    first, second = replies(bench, call(bench), call(bench, id="b" * 32), count=2)
    assert {first.refused.code, second.refused.code} <= {"internal", "device-busy"}


def a_plain_call(kind, **more):
    """A call that runs no bundle."""
    return msgspec.json.encode({"id": ID, "session": 1, "kind": kind} | more)


def test_call_for_logs_returns_the_newest_lines(bench):
    """The number that was requested, the newest of them last; nothing runs."""
    log.set_up()
    for number in range(20):
        log.event("line", number=number)
    (reply,) = replies(bench, a_plain_call("logs", lines=5))
    numbered = [f'line number="{it}"' for it in (17, 18, 19)]
    assert [line.partition("INFO ")[2] for line in reply.log[:3]] == numbered
    assert "INFO serving model" in reply.log[3]
    assert 'INFO called kind="logs"' in reply.log[4]
    assert bench.prober.probed == ["1"]


def test_call_for_the_doctor_returns_its_checks(bench):
    """As the device's own command prints them."""
    (reply,) = replies(bench, a_plain_call("doctor"))
    assert [(it.name, it.status, it.detail) for it in reply.checks] == [("clock", "ok", "right")]


def test_call_for_a_restart_is_answered_first(bench, monkeypatch):
    """Then the agent ends; another that comes too soon after a start is refused."""
    monkeypatch.setattr(remote_calls, "REPLY_LEAVES_S", 0.01)
    (refused,) = replies(bench, a_plain_call("restart"))
    assert (refused.refused.code, bench.restarts) == ("device-busy", [])
    bench.uptime_per_look_s = remote_calls.RESTART_EVERY_S
    live(bench, a_plain_call("restart"), until=lambda: bench.restarts)
    assert (bench.link.replies[0].id, bench.link.replies[0].refused) == (ID, None)


@pytest.mark.parametrize(
    "payload",
    [
        a_plain_call("logs", lines=0),
        a_plain_call("logs", lines=501),
        a_plain_call("restart", manifest_sha256="a" * 64),
        a_plain_call("verify"),
    ],
)
def test_call_with_a_wrong_bundle_or_number_is_ignored(bench, payload):
    """No reply; the next call is answered."""
    (reply,) = replies(bench, payload, call(bench, id="a" * 32))
    assert reply.id == "a" * 32

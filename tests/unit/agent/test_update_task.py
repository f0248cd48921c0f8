"""The update of one model as a task, on memory ports and a fake clock: start, retry, defer, replace, abandon."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from edgeml_agent.schedule import AtOnce, DeviceCalendar
from edgeml_agent.store import locks
from edgeml_agent.update.slot import UpdateSlot
from edgeml_agent.update.update_task import ATTEMPTS_MAX, CLOCK_LOOK_EVERY_S, RETRY_FIRST_S, UpdateTask
from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.lifecycle import State
from support.fakes import Bench
from support.samples import a_manifest
from support.waiting import until_async

NAME = "sample"
TIMEOUT_S = 20
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def bench(tmp_path):
    """A device on memory ports."""
    return Bench(tmp_path)


def deploy(bench, version, **changes):
    """Release and deploy a version."""
    files = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": version.encode() * 100}
    return bench.deploy(NAME, version, bench.release(a_manifest(version=version), files), **changes)


def run(bench, script):
    """Run `script(task)` with a task of the model, and wait until the task has ended."""

    async def main():
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
            task = UpdateTask(NAME, bench.agent, UpdateSlot(bench.folder, bench.clock), bench.clock, tasks)
            await script(task)

    asyncio.run(main())


def reported(bench):
    """The state in the last report; empty before the first."""
    return bench.link.reports[-1].state if bench.link.reports else ""


def block_probe(bench, version):
    """Let the probe of a version wait for the returned event."""
    go, probe = asyncio.Event(), bench.prober.probe

    async def blocked(folder, manifest):
        if manifest.version == version:
            await go.wait()
        return await probe(folder, manifest)

    bench.prober.probe = blocked
    return go


def test_start_of_a_settled_deployment_does_nothing(bench):
    """Neither while it runs nor after its end is the same deployment started again."""
    deployment = deploy(bench, "1.0")

    async def script(task):
        task.start(deployment)
        task.start(deployment)
        await until_async(lambda: not task.is_running)
        task.start(deployment)
        assert not task.is_running

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}
    assert bench.prober.probed == ["1.0"]


def test_start_of_a_newer_deployment_replaces_the_running_one(bench):
    """The one before is recorded as interrupted before the newer one begins."""
    old, new = deploy(bench, "1.0"), deploy(bench, "2.0")

    async def script(task):
        block_probe(bench, "1.0")
        task.start(old)
        await until_async(lambda: reported(bench) == State.PROBING)
        task.start(new)

    run(bench, script)
    assert bench.server.live == {NAME: "2.0"}
    states = [(report.version, report.state) for report in bench.link.reports]
    assert states.index(("1.0", "resolving")) < states.index(("1.0", "probing")) < states.index(("2.0", "resolving"))
    assert states[states.index(("2.0", "resolving")) - 1] == ("1.0", "resolving"), "the interruption is recorded"


def test_start_after_transport_errors_retries_with_growing_pauses(bench):
    """Up to the bound, on the fake clock; a later start begins with short pauses again."""
    deployment = deploy(bench, "1.0")
    manifests, bench.trust.manifests = bench.trust.manifests, {}

    async def script(task):
        task.start(deployment)
        await until_async(lambda: not task.is_running)
        assert [report.code for report in bench.link.reports].count("trust-unavailable") == ATTEMPTS_MAX
        assert len(bench.clock.slept) == ATTEMPTS_MAX - 1
        assert bench.clock.slept[0] <= 1.5 * RETRY_FIRST_S < bench.clock.slept[-1]
        bench.clock.slept.clear()
        pause = bench.clock.sleep

        async def sleep_once(seconds):
            bench.trust.manifests = manifests
            await pause(seconds)

        bench.clock.sleep = sleep_once
        task.start(deployment)
        await until_async(lambda: not task.is_running)
        assert len(bench.clock.slept) == 1
        assert bench.clock.slept[0] <= 1.5 * RETRY_FIRST_S

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (RejectedError("bundle-format", "malformed"), False),
        (DeviceError("probe-crashed", "crashed"), False),
        (DeviceError("disk-full", "no space"), True),
    ],
)
def test_start_after_a_failure_depends_on_its_cause(bench, error, is_retried):
    """Within a start no such failure is retried; a second start retries only one that the device may recover from."""
    deployment = deploy(bench, "1.0")
    bench.prober.failures["1.0"] = error

    async def script(task):
        task.start(deployment)
        await until_async(lambda: not task.is_running)
        assert (bench.prober.probed, bench.clock.slept) == (["1.0"], [])
        task.start(deployment)
        assert task.is_running is is_retried

    run(bench, script)


def test_a_deferred_update_frees_the_slot_until_its_time(bench):
    """It looks at the clock now and then, since the clock may be set meanwhile."""
    bench.calendar = DeviceCalendar(fetch=None, activate=None)
    bench.start()
    at_s = bench.clock.now() + 2.5 * CLOCK_LOOK_EVERY_S
    deployment = deploy(bench, "1.0", activate_after=datetime.fromtimestamp(at_s, UTC))
    slot_was_free = []
    sleep = bench.clock.sleep

    async def look(seconds):
        with locks.take(bench.folder / locks.UPDATE) as lock:
            slot_was_free.append(lock is not None)
        await sleep(seconds)

    bench.clock.sleep = look

    async def script(task):
        task.start(deployment)

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}
    assert bench.store.record(NAME).activated_at >= at_s
    assert bench.clock.slept == [CLOCK_LOOK_EVERY_S, CLOCK_LOOK_EVERY_S, CLOCK_LOOK_EVERY_S / 2]
    assert slot_was_free == [True, True, True]


class FirstHour(AtOnce):
    """Activation is allowed in the first hour of each day."""

    def activate_at(self, deployment, now_s):
        """Now, or at the next midnight."""
        return now_s if now_s % DAY_S < HOUR_S else now_s - now_s % DAY_S + DAY_S


def test_a_deferred_update_is_decided_again_when_the_clock_is_set_back(bench):
    """A board's clock holds local time until NTP sets it: tonight's window would pass."""
    bench.calendar = FirstHour()
    bench.start()
    bench.clock.seconds = 12 * DAY_S + 2 * HOUR_S
    deployment = deploy(bench, "1.0")
    sleep = bench.clock.sleep

    async def set_back(seconds):
        if not bench.clock.slept:
            bench.clock.seconds -= 1.5 * HOUR_S
        await sleep(seconds)

    bench.clock.sleep = set_back

    async def script(task):
        task.start(deployment)

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}
    assert bench.store.record(NAME).activated_at < 12 * DAY_S + HOUR_S


def test_a_changed_activation_time_restarts_a_deferred_update(bench):
    """The same deployment with an earlier time takes effect at once; nothing is fetched twice."""
    bench.calendar = DeviceCalendar(fetch=None, activate=None)
    bench.start()
    later = deploy(bench, "1.0", activate_after=datetime(2999, 1, 1, tzinfo=UTC))
    earlier = type(later)(**{key: getattr(later, key) for key in later.__struct_fields__} | {"activate_after": None})
    waits, sleep = asyncio.Event(), bench.clock.sleep

    async def wait_forever(seconds):
        waits.set()
        await asyncio.Event().wait()

    bench.clock.sleep = wait_forever

    async def script(task):
        task.start(later)
        await waits.wait()
        bench.clock.sleep = sleep
        task.start(earlier)

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}
    assert len(bench.origin.wanted) == len(set(bench.origin.wanted))


def test_abandon_ends_a_running_update(bench):
    """It is recorded as idle; a second call doesn't restart the first."""
    deployment = deploy(bench, "1.0")

    async def script(task):
        block_probe(bench, "1.0")
        task.start(deployment)
        await until_async(lambda: reported(bench) == State.PROBING)
        task.abandon()
        abandoning = task._task
        task.abandon()
        assert task._task is abandoning

    run(bench, script)
    record = bench.store.record(NAME)
    assert (record.state, record.deployment, record.wanted) == (State.IDLE, "", "")


def test_start_after_abandon_installs_the_deployment(bench):
    """Even before the first has been abandoned."""
    deployment = deploy(bench, "1.0")

    async def script(task):
        go = block_probe(bench, "1.0")
        task.start(deployment)
        await until_async(lambda: reported(bench) == State.PROBING)
        task.abandon()
        task.start(deployment)
        go.set()

    run(bench, script)
    assert bench.server.live == {NAME: "1.0"}


def test_abandon_without_a_store_is_logged(bench, monkeypatch, caplog):
    """A failing disk must not end the other tasks of the agent."""

    def fail(path):
        raise DeviceError("store-failed", f"can't make {path}")

    monkeypatch.setattr(locks, "take", fail)

    async def script(task):
        task.abandon()

    run(bench, script)
    assert "abandoned update not stored" in caplog.text


def test_cancel_records_the_interruption(bench):
    """The update resumes at its first state, with its chunks."""
    deployment = deploy(bench, "1.0")

    async def script(task):
        block_probe(bench, "1.0")
        task.start(deployment)
        await until_async(lambda: reported(bench) == State.PROBING)
        task.cancel()

    run(bench, script)
    assert bench.store.record(NAME).state is State.RESOLVING
    wanted = len(bench.origin.wanted)

    async def again(task):
        bench.prober.probe = type(bench.prober).probe.__get__(bench.prober)
        task.start(deployment)

    run(bench, again)
    assert bench.server.live == {NAME: "1.0"}
    assert len(bench.origin.wanted) == wanted


@pytest.mark.parametrize("step", ["begin", "finish"])
def test_cancel_in_a_step_on_the_disk_waits_for_its_end(bench, step):
    """Its thread can't be cancelled: beside the next update it would remove or rename that one's folder."""
    deployment = deploy(bench, "1.0")
    begun, may_end, ended, work = asyncio.Event(), threading.Event(), [], getattr(bench.releases, step)

    async def script(task):
        loop = asyncio.get_running_loop()

        def slow(*arguments):
            loop.call_soon_threadsafe(begun.set)
            assert may_end.wait(TIMEOUT_S)
            done = work(*arguments)
            ended.append(step)
            return done

        setattr(bench.releases, step, slow)
        task.start(deployment)
        await begun.wait()
        task.cancel()
        loop.call_later(0.1, may_end.set)
        await until_async(lambda: not task.is_running)
        assert ended == [step]

    run(bench, script)


def test_cancel_before_any_start_does_nothing(bench):
    """There is no task yet."""

    async def script(task):
        task.cancel()
        assert not task.is_running

    run(bench, script)

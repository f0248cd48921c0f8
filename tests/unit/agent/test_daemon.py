"""When the agent does what, on memory ports: following, interrupting, trying again, coming up after a crash."""

import asyncio
from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest

from edgeml_agent.fetch.window import BAD_COPIES_MAX
from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.schedule import AtOnce, DeviceCalendar
from edgeml_agent.store import locks
from edgeml_agent.update import daemon as daemons
from edgeml_agent.update import update_task
from edgeml_core import chunks, desired
from edgeml_core.daily_window import parse
from edgeml_core.drift import Drift
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, TransportError, UsageError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import MANIFEST_NAME
from support.fakes import TUNED, Bench
from support.samples import a_manifest
from support.waiting import until_async

NAME = "sample"


@pytest.fixture
def bench(tmp_path):
    """A device that has come up for the first time."""
    return Bench(tmp_path)


def deploy(bench, version, **changes):
    """Release and deploy a version; the digest of its weights."""
    weights = version.encode() * 100
    files = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": weights}
    bench.deploy(NAME, version, bench.release(a_manifest(version=version), files), **changes)
    return chunks.sha256(weights)


def live(bench, *deeds, until):
    """A new process: run the agent, announce after each deed, stop when `until` holds."""
    bench.start()

    async def run():
        running = asyncio.create_task(bench.daemon.run())
        for deed in (lambda: None, *deeds):
            deed()
            bench.link.news.set()
            for _ in range(40):
                await asyncio.sleep(0.001)
        await until_async(until)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def serves(bench, version):
    """Whether a version answers and the update is at rest."""
    return lambda: bench.server.live == {NAME: version} and bench.store.record(NAME).state is State.ACTIVE


def deferred(bench):
    """Whether an update has reported that it waits for its time."""
    return lambda: bench.link.reports and bench.link.reports[-1].state is State.DEFERRED


def codes(bench):
    """The codes reported, in order, without those of good news."""
    return [report.code for report in bench.link.reports if report.code]


def test_deployment_when_new_is_served_and_reported(bench):
    """Reports name every state, the state message the version."""
    deploy(bench, "1.0")
    live(bench, until=lambda: bench.link.reports and bench.link.reports[-1].probe_ms > 0)
    states = list(dict.fromkeys(report.state for report in bench.link.reports))
    assert states == ["resolving", "fetching", "verifying", "probing", "activating", "active"]
    assert bench.link.shown[-1].models[NAME].version == "1.0"
    assert bench.link.shown[-1].arch == "aarch64"


def test_drift_with_a_new_grade_is_published(bench, monkeypatch):
    """In the retained state, now and then: not for every figure, and not for a version that is gone."""
    monkeypatch.setattr(daemons, "DRIFT_REPORT_EVERY_S", 0.001)
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    assert bench.link.shown[-1].models[NAME].drift is None

    def drifts(grade, observed, **psi):
        bench.drifts[NAME, "1.0"] = Drift(grade=grade, observed=observed, psi=psi)

    def reported():
        return bench.link.shown[-1].models[NAME].drift

    def count_states():
        counts.append(len(bench.link.shown))

    counts = []
    moved = (
        partial(drifts, "ok", 60),
        count_states,
        partial(drifts, "ok", 400),
        count_states,
        partial(drifts, "major", 500, score=0.6),
    )
    live(bench, *moved, until=lambda: reported() and reported().grade == "major")
    assert counts[0] == counts[1]
    assert reported() == Drift(grade="major", observed=500, psi={"score": 0.6})
    deploy(bench, "2.0")
    live(bench, until=serves(bench, "2.0"))
    assert reported() is None


def test_deployment_announced_again_is_not_repeated(bench):
    """However often it is announced, and after a restart."""
    deploy(bench, "1.0")
    live(bench, lambda: None, lambda: None, until=serves(bench, "1.0"))
    live(bench, until=serves(bench, "1.0"))
    assert bench.prober.probed == ["1.0"]


def test_release_once_refused_is_never_tried_again(bench):
    """Not after a restart, and not when it is deployed again: then it is refused at once, by the same code."""
    deploy(bench, "1.0")
    deploy(bench, "2.0")
    bench.prober.failures["2.0"] = RejectedError("bundle-format", "its files contradict each other")
    live(bench, until=lambda: "bundle-format" in codes(bench))
    second = bench.trust.deployments[-1].bundles[0]
    bench.deploy(NAME, "2.0", second)
    live(bench, until=lambda: codes(bench).count("bundle-format") == 2)
    assert bench.prober.probed.count("2.0") == 1


def test_release_once_refused_is_tried_again_by_another_attempt(bench):
    """The operator has removed the cause, as a wrong runtime on the board, and signs another attempt: once."""
    deploy(bench, "1.0")
    deploy(bench, "2.0")
    bench.prober.failures["2.0"] = RejectedError("golden-mismatch", "its answers differ")
    live(bench, until=lambda: "golden-mismatch" in codes(bench))
    for attempts in (2, 3):
        second = bench.trust.deployments[-1]
        bench.trust.deployments[-1] = msgspec.structs.replace(second, id=desired.next_attempt(second.id))
        live(bench, until=lambda attempts=attempts: codes(bench).count("golden-mismatch") == attempts)
        assert bench.prober.probed.count("2.0") == attempts
    del bench.prober.failures["2.0"]
    second = bench.trust.deployments[-1]
    bench.trust.deployments[-1] = msgspec.structs.replace(second, id=desired.next_attempt(second.id))
    live(bench, until=serves(bench, "2.0"))


def test_fetch_of_damaged_copies_is_retried(bench):
    """They are reported; when right copies come, the release is installed."""
    digest = deploy(bench, "1.0")
    bench.origin.bad[digest] = 2 * BAD_COPIES_MAX
    live(bench, until=serves(bench, "1.0"))
    assert codes(bench).count("digest-mismatch") == 2


def test_update_after_a_full_disk_is_retried(bench):
    """A full disk is no fault of the release: the next look retries it."""
    deploy(bench, "1.0")
    bench.prober.failures["1.0"] = DeviceError("disk-full", "no room")
    live(bench, until=lambda: "disk-full" in codes(bench))
    bench.prober.failures.clear()
    live(bench, until=serves(bench, "1.0"))


def test_desired_state_with_a_defect_is_reported_and_harms_nothing(bench):
    """The serving version goes on, and the next look may succeed."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.trust.refusal = ValueError("unheard of")
    live(bench, until=lambda: "internal" in codes(bench))
    assert bench.server.live == {NAME: "1.0"}
    bench.trust.refusal = None
    deploy(bench, "2.0")
    live(bench, until=serves(bench, "2.0"))


def test_update_over_a_bad_network_is_retried_with_growing_pauses(bench):
    """Until the bound; another announcement starts again."""
    digest = deploy(bench, "1.0")
    bench.origin.lost[digest] = 10_000
    live(bench, until=lambda: codes(bench).count("chunk-timeout") == update_task.ATTEMPTS_MAX)
    pauses = [seconds for seconds in bench.clock.slept if seconds != daemons.STORE_LOOK_EVERY_S]
    assert len(pauses) >= update_task.ATTEMPTS_MAX - 1
    assert max(pauses) > 16 * min(pauses)
    bench.origin.lost.clear()
    live(bench, until=serves(bench, "1.0"))


def test_update_that_fails_on_the_device_keeps_the_old_version(bench):
    """In the probe and at activation."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.prober.failures["2.0"] = DeviceError("probe-crashed", "it crashed")
    bench.server.failures.add("3.0")
    live(bench, lambda: deploy(bench, "2.0"), until=lambda: "probe-crashed" in codes(bench))
    live(bench, lambda: deploy(bench, "3.0"), until=lambda: "runtime-failed" in codes(bench))
    assert bench.server.live == {NAME: "1.0"}
    assert bench.store.record(NAME).state is State.ROLLED_BACK


def test_update_with_a_defect_is_recorded_and_harms_nothing(bench):
    """Any exception in a step is an internal error of that update."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.prober.failures["2.0"] = ZeroDivisionError("a defect")
    live(bench, lambda: deploy(bench, "2.0"), until=lambda: "internal" in codes(bench))
    assert bench.server.live == {NAME: "1.0"}


def test_update_that_the_device_cannot_run_fetches_nothing(bench):
    """The prober is asked before."""
    bench.prober.refusal = DeviceError("memory-short", "too little")
    deploy(bench, "1.0")
    live(bench, until=lambda: "memory-short" in codes(bench))
    assert bench.origin.wanted == []


def test_deployment_when_newer_interrupts_the_older(bench):
    """The one before is left where it was."""
    digest = deploy(bench, "1.0")
    bench.origin.lost[digest] = 10_000
    live(bench, lambda: deploy(bench, "2.0"), until=serves(bench, "2.0"))
    assert bench.prober.probed == ["2.0"]


#: Later than any clock here runs by itself.
LATER = datetime(2999, 1, 1, 22, 0, tzinfo=UTC)


def test_deployment_for_later_is_fetched_now(bench):
    """And probed; it is reported as deferred, and activated at its time, also after a restart."""
    bench.calendar = DeviceCalendar(fetch=None, activate=None)
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "2.0", activate_after=LATER)
    live(bench, until=deferred(bench))
    assert bench.prober.probed == ["1.0", "2.0"]
    assert bench.server.live == {NAME: "1.0"}
    assert "2999-01-01 22:00" in bench.link.reports[-1].message
    wanted = len(bench.origin.wanted)
    bench.clock.seconds = LATER.timestamp() - 1.0
    live(bench, until=serves(bench, "2.0"))
    assert bench.store.record(NAME).activated_at >= LATER.timestamp()
    assert len(bench.origin.wanted) == wanted


def test_deployment_with_another_time_is_followed(bench):
    """Sooner, too."""
    bench.calendar = DeviceCalendar(fetch=None, activate=None)
    deploy(bench, "1.0", activate_after=LATER)

    def hurry():
        bench.trust.deployments[-1] = msgspec.structs.replace(bench.trust.deployments[-1], activate_after=None)

    live(bench, until=deferred(bench))
    live(bench, lambda: None, hurry, until=serves(bench, "1.0"))
    assert bench.clock.now() < LATER.timestamp()


def test_hours_of_a_board_without_a_clock_are_reported_as_waiting_for_it(bench):
    """It starts in 1970. Its hours never come, and the date of the next ones would be a promise."""
    bench.calendar = DeviceCalendar(fetch=parse("00:00-23:59"), activate=None, floor=lambda: LATER)
    deploy(bench, "1.0")
    live(bench, until=deferred(bench))
    assert codes(bench) == ["clock-late"]
    assert "2999-01-01 22:00 UTC has passed" in bench.link.reports[-1].message
    bench.clock.seconds = LATER.timestamp() + 1.0
    live(bench, until=serves(bench, "1.0"))
    assert bench.store.record(NAME).code == ""


def test_swap_that_takes_long_delays_no_rollback_of_another(bench, monkeypatch):
    """A large model loads for a minute on a slow board."""
    for version in ("1.0", "2.0"):
        files = {"golden.msgpack": b"golden", "model.onnx": b"other graph", "model.weights": version.encode() * 100}
        bench.deploy("third", version, bench.release(a_manifest(name="third", version=version), files))
        live(bench, until=lambda version=version: bench.server.live.get("third") == version)
    deploy(bench, "1.0")
    live(bench, until=lambda: bench.server.live == {NAME: "1.0", "third": "2.0"})
    activate, complete = bench.server.activate, asyncio.Event()

    async def loading(name, folder, manifest, deployment):
        await activate(name, folder, manifest, deployment)
        if manifest.version == "3.0":
            await complete.wait()

    async def main():
        running = asyncio.create_task(bench.daemon.run())
        await until_async(lambda: bench.daemon.ready)
        deploy(bench, "3.0")
        bench.link.news.set()
        await until_async(lambda: bench.server.live[NAME] == "3.0")
        await asyncio.sleep(0.1)  # the store's changes until here are followed
        Bench(bench.folder).store.roll_back("third", "", "")
        await until_async(lambda: bench.server.live["third"] == "1.0")
        assert bench.store.record(NAME).state is State.ACTIVATING
        complete.set()
        await until_async(lambda: bench.store.record(NAME).state is State.ACTIVE)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    bench.start()
    monkeypatch.setattr(bench.server, "activate", loading)
    asyncio.run(main())


def test_replaced_version_that_still_answers_delays_its_own_next_update_alone(bench):
    """A chat may last for minutes. Only where memory is short do the updates of other models wait for its end."""
    deploy(bench, "1.0")
    deploy_beside(bench, "other")
    live(bench, until=lambda: bench.server.live == {NAME: "1.0", "other": "1.0"})

    async def main():
        answered = bench.server.retiring[NAME] = asyncio.Event()
        running = asyncio.create_task(bench.daemon.run())
        await until_async(lambda: bench.daemon.ready)
        deploy(bench, "2.0")
        deploy_beside(bench, "other", "2.0")
        bench.link.news.set()
        await until_async(lambda: bench.server.live["other"] == "2.0")
        bench.prober.refusal = DeviceError("memory-short", "needs 1 byte")
        deploy_beside(bench, "other", "3.0")
        bench.link.news.set()
        await until_async(lambda: bench.link.reports[-1].version == "3.0")
        await asyncio.sleep(0.05)
        assert bench.link.reports[-1].state is State.RESOLVING
        assert bench.server.live == {NAME: "1.0", "other": "2.0"}
        bench.prober.refusal = None
        answered.set()
        await until_async(lambda: bench.server.live == {NAME: "2.0", "other": "3.0"})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    bench.start()
    asyncio.run(main())
    assert codes(bench) == []


def test_deployment_that_is_deferred_delays_no_other(bench):
    """Neither another model nor an install."""
    bench.calendar = DeviceCalendar(fetch=None, activate=None)
    deploy(bench, "1.0", activate_after=LATER)
    files = {"golden.msgpack": b"golden", "model.onnx": b"other graph", "model.weights": b"other" * 100}
    bench.deploy("other", "1.0", bench.release(a_manifest(name="other", version="1.0"), files))
    live(bench, until=lambda: bench.server.live == {"other": "1.0"})
    with locks.take(bench.folder / locks.UPDATE) as lock:
        assert lock is not None


class Night(AtOnce):
    """Fetching is allowed for a blink, then again from a given time on."""

    def __init__(self, clock):
        self.clock = clock
        self.begins_s = clock.now() + 3600
        self.is_over = False

    def fetch_at(self, now_s):
        """Now, until the blink is over."""
        return max(now_s, self.begins_s) if self.is_over else now_s

    def fetch_until(self, now_s):
        """A moment, of the real time too."""
        if now_s >= self.begins_s:
            return None
        self.is_over = True
        return now_s + 0.05


def test_fetch_at_the_end_of_its_window_stops(bench, monkeypatch):
    """And goes on when they begin again."""
    bench.calendar = Night(bench.clock)
    received, begins_s = bench.origin.receive, bench.calendar.begins_s

    async def receive(timeout_s):
        if all(report.state is not State.DEFERRED for report in bench.link.reports):
            await asyncio.Event().wait()  # until the blink is over
        return await received(timeout_s)

    monkeypatch.setattr(bench.origin, "receive", receive)
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    assert bench.store.record(NAME).activated_at >= begins_s
    states = list(dict.fromkeys(report.state for report in bench.link.reports))
    assert states[:3] == ["resolving", "fetching", "deferred"]


def test_update_of_a_deployment_that_is_gone_ends(bench):
    """And goes on when it is wanted again."""
    digest = deploy(bench, "1.0")
    bench.origin.lost[digest] = 10_000
    deployments = bench.trust.deployments[:]
    live(bench, bench.trust.deployments.clear, until=lambda: bench.store.record(NAME).state is State.IDLE)
    bench.origin.lost.clear()
    bench.trust.deployments[:] = deployments
    live(bench, until=serves(bench, "1.0"))


def test_update_whose_deployment_went_while_the_agent_was_stopped_ends(bench):
    """The state shows the version that served before; the paused update has ended."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.origin.lost[deploy(bench, "2.0")] = 10_000
    live(bench, until=lambda: bench.store.record(NAME).state is State.WAITING)
    bench.trust.deployments.clear()
    live(bench, until=serves(bench, "1.0"))
    record = bench.store.record(NAME)
    assert (record.deployment, record.wanted, record.version) == ("", "", "")
    assert bench.link.shown[-1].models[NAME].state == State.ACTIVE


def test_deployment_once_settled_outlives_its_withdrawal(bench):
    """A model that serves is not taken away because nothing wants it."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deployment = bench.store.record(NAME).deployment
    bench.trust.deployments.clear()
    live(bench, until=serves(bench, "1.0"))
    assert bench.store.record(NAME).deployment == deployment


def test_removal_ends_serving_reports_it_and_frees_the_disk(bench):
    """Once, also after a restart; and the model can be deployed again."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    first = bench.trust.deployments[-1]
    removal = bench.undeploy(NAME)
    live(bench, until=lambda: bench.store.record(NAME).state is State.REMOVED and not releases_kept(bench))
    live(bench, until=lambda: bench.link.shown[-1].models[NAME].state == State.REMOVED)
    assert bench.server.live == {}
    assert [it.state for it in bench.link.reports if it.deployment == removal.id] == ["resolving", "removed"]
    bench.trust.deployments.append(msgspec.structs.replace(first, id="again"))
    live(bench, until=serves(bench, "1.0"))


def releases_kept(bench):
    """The folders of releases on the disk."""
    return list((bench.folder / "releases").iterdir())


def test_removal_during_an_update_ends_it(bench):
    """The fetch is cancelled, and both versions go."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.origin.lost[deploy(bench, "2.0")] = 10_000
    live(bench, lambda: bench.undeploy(NAME), until=lambda: bench.store.record(NAME).state is State.REMOVED)
    assert (bench.server.live, releases_kept(bench)) == ({}, [])


@pytest.fixture
def removal(bench):
    """Remove the model that the device serves, by another process, as `edgeml-agent install` does from a stick."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    other = Bench(bench.folder)
    other.trust = bench.trust
    other.start()
    removed = msgspec.structs.replace(bench.trust.deployments.pop(), id="gone", version="", bundles=())

    async def remove():
        with locks.held(bench.folder / locks.UPDATE):  # else the running agent abandons it, as not deployed
            await other.agent.attempt(removed)

    return remove


def is_removed(bench):
    """Whether the agent has followed a removal."""
    return lambda: bench.server.live == {} and bench.store.record(NAME).state is State.REMOVED


def test_removal_by_another_process_is_followed(bench, removal):
    """The running agent stops serving."""
    tasks = []
    live(bench, lambda: tasks.append(asyncio.ensure_future(removal())), until=is_removed(bench))


def test_removal_by_another_process_while_the_agent_starts_is_followed(bench, removal):
    """Between the look at the store and the first answer, loading takes seconds on a board."""
    activate = bench.server.activate

    async def remove_and_activate(*release):
        await removal()
        await activate(*release)

    bench.server.activate = remove_and_activate
    live(bench, until=is_removed(bench))


@pytest.mark.parametrize("outcome", ["active", "refused", "rolled back"])
def test_deployment_that_leaves_the_document_gives_way_to_the_one_before(bench, outcome):
    """However it ended here: the old version serves again, unfetched, and the bad one isn't tried again."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    digest = deploy(bench, "2.0")
    if outcome == "refused":
        bench.prober.failures["2.0"] = RejectedError("golden-mismatch", "its answers differ")
    if outcome == "rolled back":
        bench.server.failures.add("2.0")
    done = {"active": State.ACTIVE, "refused": State.REJECTED, "rolled back": State.ROLLED_BACK}[outcome]
    bad = bench.trust.deployments[-1]
    live(bench, until=lambda: settled(bench, bad) is done)
    probed = bench.prober.probed.count("2.0")
    bench.trust.deployments.remove(bad)
    bench.origin.lost[digest] = 10_000
    live(bench, until=lambda: settled(bench, bench.trust.deployments[-1]) is State.ACTIVE)
    live(bench, until=serves(bench, "1.0"))
    assert bench.prober.probed.count("2.0") == probed
    # A device that never took the bad version loads nothing again.
    assert bench.prober.probed.count("1.0") == (2 if outcome == "active" else 1)


def settled(bench, deployment):
    """The state of a deployment on the device; None while its record is about another one."""
    record = bench.store.record(NAME)
    return record.state if record.deployment == deployment.id else None


def test_revoked_device_serves_what_it_has_and_ends_its_update(bench):
    """It reports why, and takes nothing more, until another record replaces that one."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    digest = deploy(bench, "2.0")
    bench.origin.lost[digest] = 10_000
    live(bench, until=lambda: bench.store.record(NAME).state is State.WAITING)
    bench.trust.revoked = True
    live(bench, until=serves(bench, "1.0"))
    assert bench.store.record(NAME).wanted == ""
    assert codes(bench).count("device-revoked") == 1
    assert bench.link.shown[-1].code == "device-revoked"
    bench.origin.lost.clear()
    bench.trust.revoked = False
    live(bench, until=serves(bench, "2.0"))
    assert bench.link.shown[-1].code == ""


def test_signed_files_once_refused_are_reported_once(bench):
    """Until they are right again; nothing else changes."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    bench.trust.refusal = RejectedError("rollback-attempt", "older metadata was offered")
    live(bench, lambda: None, lambda: None, until=lambda: "rollback-attempt" in codes(bench))
    assert codes(bench).count("rollback-attempt") == 1
    assert bench.server.live == {NAME: "1.0"}
    assert bench.link.shown[-1].code == "rollback-attempt"
    bench.trust.refusal = None
    live(bench, until=lambda: bench.link.shown[-1].code == "")


def test_signed_files_that_are_missing_are_fetched_again(bench, monkeypatch):
    """Without any announcement."""
    monkeypatch.setattr(daemons, "RETRY_FIRST_S", 0.01)
    deploy(bench, "1.0")
    bench.trust.refusal = TransportError("trust-unavailable", "not yet")
    live(bench, lambda: setattr(bench.trust, "refusal", None), until=serves(bench, "1.0"))
    assert codes(bench) == []


def test_probation_with_three_crashes_rolls_back(bench):
    """Not the second; the deployment isn't tried again."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    crash(bench, times=2)
    assert bench.server.live == {NAME: "2.0"}
    crash(bench, times=1)
    assert bench.server.live == {NAME: "1.0"}
    assert codes(bench) == ["crash-loop"]
    live(bench, until=lambda: bench.store.record(NAME).state is State.ROLLED_BACK)
    assert bench.prober.probed == ["1.0", "2.0"]


def test_probation_past_by_the_clock_counts_no_crash(bench):
    """By a clock that was set."""
    bench.clock.seconds = 2 * daemons.CLOCK_SET_S
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    bench.clock.seconds += daemons.PROBATION_S
    crash(bench, times=5)
    assert bench.server.live == {NAME: "2.0"}


def test_probation_past_by_uptime_counts_no_crash(bench, monkeypatch):
    """Something else is at fault then."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    monkeypatch.setattr(daemons, "PROBATION_S", 0.01)
    live(bench, until=lambda: not bench.store.record(NAME).is_on_probation)
    crash(bench, times=5)
    assert bench.server.live == {NAME: "2.0"}


@pytest.mark.parametrize("method", ["records", "save", "end_probation", "changes", "refuse", "activate"])
def test_a_store_that_fails_ends_no_task_of_the_agent(bench, monkeypatch, method):
    """The model goes on answering; once the store works again, the next version is installed."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    monkeypatch.setattr(daemons, "PROBATION_S", 0.01)
    bench.start()
    failures = []

    def fail(*_):
        failures.append(method)
        raise DeviceError("store-failed", "database or disk is full")

    async def run():
        running = asyncio.create_task(bench.daemon.run())
        await until_async(lambda: bench.daemon.ready)
        with monkeypatch.context() as patch:
            patch.setattr(bench.store, method, fail)
            deploy(bench, "2.0")
            if method != "refuse":
                await until_async(lambda: bench.link.news.set() or failures)
            for _ in range(50):
                bench.link.news.set()
                await asyncio.sleep(0.001)
            assert not running.done()
            assert bench.server.live[NAME] in ("1.0", "2.0")
        deploy(bench, "3.0")
        bench.link.news.set()
        await until_async(serves(bench, "3.0"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert failures or method == "refuse"


@pytest.mark.parametrize("jump_s", [-1e9, 1e9])
def test_probation_across_a_clock_jump_counts_every_crash(bench, jump_s):
    """A board that wakes up in 1970, or whose clock is set after the activation."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    bench.clock.seconds += jump_s
    crash(bench, times=3)
    assert bench.server.live == {NAME: "1.0"}


def crash(bench, times):
    """Runs that begin and never end, and one that looks what is left."""
    bench.store.begin_run()
    for _ in range(times):
        bench.start()
        asyncio.run(bench.daemon.start_serving())


def test_start_with_an_unloadable_version_rolls_back(bench):
    """At the start; the one before answers, and it is reported."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    bench.server.failures.add("2.0")
    bench.start()
    asyncio.run(bench.daemon.start_serving())
    assert bench.server.live == {NAME: "1.0"}
    assert codes(bench) == ["runtime-failed"]


def test_store_changed_by_a_rollback_is_followed(bench):
    """By another process, through the store."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    other = Bench(bench.folder)
    live(bench, lambda: other.store.roll_back(NAME, "", ""), until=lambda: bench.server.live == {NAME: "1.0"})
    assert bench.prober.probed == ["1.0", "2.0"]


def test_update_during_an_install_waits(bench):
    """Both would write to the same folders."""
    deploy(bench, "1.0")
    lock = locks.take(bench.folder / locks.UPDATE)
    live(bench, lambda: lock.close() if bench.store.records() == {} else None, until=serves(bench, "1.0"))


def test_tuning_of_a_serving_release_reloads_it_once(bench):
    """When no update is under way; the report says what was found. What can't be tuned goes on as it is."""
    bench.tunes = True
    deploy(bench, "1.0")
    live(bench, until=lambda: bench.link.reports and bench.link.reports[-1].tuned)
    assert bench.link.reports[-1].tuned == TUNED
    assert (bench.prober.tuned, bench.server.reloaded) == (["1.0"], [NAME])


def test_tuning_during_an_update_is_cancelled(bench):
    """It is left, and the new version is tuned in its turn."""
    bench.tunes = True
    bench.prober.tunes_go.clear()
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "1.1")
    live(bench, until=serves(bench, "1.1"))
    assert bench.prober.tuned == []
    bench.prober.tunes_go.set()
    live(bench, until=lambda: bench.prober.tuned)
    assert bench.prober.tuned == ["1.1"]


def test_tuning_that_fails_leaves_the_release(bench):
    """It isn't tried again in the same run; the next version is."""
    bench.tunes = True
    bench.prober.untunable.add("1.0")
    deploy(bench, "1.0")

    def looked_often():
        return bench.prober.tuned and bench.clock.slept.count(daemons.TUNE_LOOK_EVERY_S) > 20

    live(bench, until=looked_often)
    assert bench.server.live == {NAME: "1.0"}
    assert (bench.prober.tuned, bench.server.reloaded) == (["1.0"], [])
    deploy(bench, "1.1")
    live(bench, until=lambda: bench.server.reloaded)
    assert bench.server.live == {NAME: "1.1"}


def test_shadow_of_a_new_version_precedes_its_activation(bench):
    """If `serve.shadow` is set and a version serves: the first version has none to be compared with."""
    bench.rule = ShadowPolicy(requests=7)
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "1.1")
    live(bench, until=serves(bench, "1.1"))
    states = [report.state for report in bench.link.reports if report.version == "1.1"]
    assert list(dict.fromkeys(states))[-3:] == ["shadowing", "activating", "active"]
    assert "shadowing" not in [report.state for report in bench.link.reports if report.version == "1.0"]
    assert [report.compared.compared for report in bench.link.reports if report.compared] == [7]


def test_shadow_that_disagrees_rolls_back_for_good(bench):
    """What served goes on; the report has the code."""
    bench.rule = ShadowPolicy()
    bench.server.disagreeing.add("1.1")
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "1.1")
    live(bench, until=lambda: codes(bench))
    live(bench, until=lambda: bench.server.live)
    assert bench.server.live == {NAME: "1.0"}
    assert set(codes(bench)) == {"shadow-disagreed"}
    assert [report.state for report in bench.link.reports].count(State.SHADOWING) == 1
    assert bench.store.record(NAME).state is State.ROLLED_BACK


def test_withdrawn_release_that_serves_keeps_serving_and_is_logged(bench, caplog):
    """Once; another deployment of it is refused, and it can be installed when the release key permits it again."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "2.0")
    bench.trust.withdrawals = {f"{NAME}-1.0-rpi4-onnx", f"{NAME}-2.0-rpi4-onnx"}
    live(bench, lambda: None, until=lambda: codes(bench) == ["release-withdrawn"])
    assert bench.server.live == {NAME: "1.0"}
    assert bench.store.record(NAME).state is State.REJECTED
    assert caplog.text.count("a withdrawn release still serves") == 1
    bench.trust.withdrawals = set()
    again = msgspec.structs.replace(bench.trust.deployments[-1], id="again")
    bench.trust.deployments.append(again)
    live(bench, until=serves(bench, "2.0"))


def test_release_withdrawn_while_it_is_probed_is_not_activated(bench, monkeypatch):
    """A fetch may take hours; the digest is not refused for ever."""
    deploy(bench, "1.0")
    probe = bench.prober.probe

    async def probe_and_withdraw(folder, manifest):
        bench.trust.withdrawals = {manifest.stem}
        return await probe(folder, manifest)

    monkeypatch.setattr(bench.prober, "probe", probe_and_withdraw)
    live(bench, until=lambda: codes(bench) == ["release-withdrawn"])
    assert bench.server.live == {}
    monkeypatch.undo()
    bench.trust.withdrawals = set()
    bench.trust.deployments.append(msgspec.structs.replace(bench.trust.deployments[-1], id="again"))
    live(bench, until=serves(bench, "1.0"))


def deploy_beside(bench, name, version="1.0"):
    """Release and deploy a version of another model."""
    files = {"golden.msgpack": b"golden", "model.onnx": name.encode(), "model.weights": version.encode() * 50}
    bench.deploy(name, version, bench.release(a_manifest(name=name, version=version), files))


def damage_manifest(bench, name):
    """Let the disk lose the manifest of a model's active release."""
    (bench.releases.folder(bench.store.record(name).active) / MANIFEST_NAME).write_bytes(b"rot")


@pytest.mark.parametrize("repair", ["1.0", "2.0"])
def test_damaged_manifest_of_one_model_stops_no_other(bench, repair):
    """The others serve and are updated, and another deployment of the damaged one repairs it for good."""
    deploy(bench, "1.0")
    deploy_beside(bench, "other")
    live(bench, until=lambda: bench.server.live == {NAME: "1.0", "other": "1.0"})
    damage_manifest(bench, NAME)
    deploy_beside(bench, "other", "2.0")
    live(bench, until=lambda: bench.server.live == {"other": "2.0"})
    assert bench.link.shown[-1].models[NAME].version == ""
    deploy(bench, repair)
    for _ in range(2):
        live(bench, until=lambda: bench.server.live == {NAME: repair, "other": "2.0"})


def test_damaged_manifest_of_one_model_hides_no_withdrawn_release_that_serves(bench, caplog):
    """Neither that of another model nor its own: both answer from memory."""
    deploy(bench, "1.0")
    deploy_beside(bench, "other")
    live(bench, until=lambda: bench.server.live == {NAME: "1.0", "other": "1.0"})

    def withdraw():
        damage_manifest(bench, "other")
        bench.trust.withdrawals = {f"{NAME}-1.0-rpi4-onnx", "other-1.0-rpi4-onnx"}

    live(bench, withdraw, until=lambda: caplog.text.count("a withdrawn release still serves") == 2)


@pytest.mark.parametrize("is_revoked", [False, True])
def test_update_that_waits_for_its_turn_ends_with_its_deployment(bench, is_revoked):
    """An aborted rollout must not reach a device that fetches another model meanwhile, nor a revoked device."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy_beside(bench, "other")
    lock = locks.take(bench.folder / locks.UPDATE)

    def end():
        bench.trust.revoked = is_revoked
        del bench.trust.deployments[-1]

    def has_ended():
        lock.close()
        return not bench.daemon._updates["other"].is_running

    live(bench, end, until=has_ended)
    assert bench.server.live == {NAME: "1.0"}
    assert bench.prober.probed == ["1.0"]


def test_store_changed_by_another_process_is_followed_beside_a_model_that_cannot_be_loaded(bench):
    """The names of models have an order; the failure of one must not end the look at those after it."""
    deploy_beside(bench, "another")
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=lambda version=version: bench.server.live == {"another": "1.0", NAME: version})
    damage_manifest(bench, "another")
    other = Bench(bench.folder)
    live(bench, lambda: other.store.roll_back(NAME, "", ""), until=lambda: bench.server.live == {NAME: "1.0"})


def test_start_with_an_unloadable_version_on_a_store_that_takes_no_writes_serves_the_one_before(bench, monkeypatch):
    """A card that has damaged the model is often read-only, too; the rollback is stored when it can be."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    bench.server.failures.add("2.0")
    bench.start()

    def fails(*_):
        raise DeviceError("store-failed", "attempt to write a readonly database")

    for method in ("begin_run", "save", "roll_back"):
        monkeypatch.setattr(bench.store, method, fails)
    asyncio.run(bench.daemon.start_serving())
    assert bench.server.live == {NAME: "1.0"}


@pytest.mark.parametrize("cause", ["broker away", "memory short"])
def test_retry_that_begins_no_fetch_keeps_the_chunks(bench, cause):
    """Each retry reads the manifest and looks for memory first; the chunks are on the disk."""
    digest = deploy(bench, "1.0")
    bench.origin.lost[digest] = 10_000
    attempt = partial(bench.agent.attempt, bench.trust.deployments[-1])
    with pytest.raises(TransportError):
        asyncio.run(attempt())
    manifests = bench.trust.manifests
    if cause == "broker away":
        bench.trust.manifests = {}
    else:
        bench.prober.refusal = DeviceError("memory-short", "needs 1 byte")
    with pytest.raises(EdgemlError):
        asyncio.run(attempt())
    bench.trust.manifests, bench.prober.refusal = manifests, None
    bench.origin.lost.clear()
    bench.origin.wanted.clear()
    asyncio.run(attempt())
    assert bench.origin.wanted == [digest]


def test_install_by_another_process_outlives_an_update_that_waited_for_it(bench):
    """A bundle of an operator stays until the fleet's next deployment, however long its installation takes."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    deploy(bench, "2.0")
    other, lock = Bench(bench.folder), locks.take(bench.folder / locks.UPDATE)
    files = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": b"1.5"}
    bundle = other.release(a_manifest(version="1.5"), files)
    by_hand = msgspec.structs.replace(bench.trust.deployments[-1], version="1.5", bundles=(bundle,))
    tasks = []

    async def install():
        await other.agent.attempt(by_hand)
        lock.close()

    def is_done():
        return serves(bench, "1.5")() and not bench.daemon._updates[NAME].is_running

    live(bench, lambda: tasks.append(asyncio.ensure_future(install())), until=is_done)
    assert "2.0" not in bench.prober.probed


def test_stop_while_the_agent_starts_is_no_crash(bench):
    """Loading takes a minute on a board, and an operator may restart the agent several times meanwhile."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    activate = bench.server.activate

    async def stop():
        loading = asyncio.Event()

        async def load(*_):
            loading.set()
            await asyncio.Event().wait()

        bench.server.activate = load
        running = asyncio.create_task(bench.daemon.run())
        await loading.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    for _ in range(daemons.CRASHES_MAX + 1):
        bench.start()
        asyncio.run(stop())
    bench.server.activate = activate
    live(bench, until=serves(bench, "2.0"))


def test_start_with_an_unloadable_only_version_reports_it_and_loads_it_again(bench, monkeypatch):
    """Memory may be short at boot. The failure is reported once, and so is the success, if it comes."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    monkeypatch.setattr(daemons, "RETRY_FIRST_S", 0.01)
    bench.server.failures.add("1.0")
    model = []

    def free_memory():
        model.append(bench.link.shown[-1].models[NAME])
        bench.server.failures.clear()

    live(bench, lambda: None, free_memory, until=serves(bench, "1.0"))
    assert (model[0].version, model[0].state) == ("", State.ROLLED_BACK)
    assert (bench.link.shown[-1].models[NAME].version, bench.link.reports[-1].state) == ("1.0", State.ACTIVE)
    assert codes(bench) == ["runtime-failed"]
    assert bench.prober.probed == ["1.0"]


def test_store_changed_to_a_version_that_cannot_be_loaded_is_followed_later(bench, monkeypatch):
    """Until then the device reports the version that answers."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    monkeypatch.setattr(daemons, "RETRY_FIRST_S", 0.01)
    bench.server.failures.add("1.0")
    other = Bench(bench.folder)
    models = []

    def roll_back():
        bench.server.failures.add("1.0")
        other.store.roll_back(NAME, "", "")

    def repair():
        models.append(bench.link.shown[-1].models[NAME].version)
        bench.server.failures.clear()

    live(bench, roll_back, repair, until=lambda: bench.server.live == {NAME: "1.0"})
    assert models == ["2.0"]


@pytest.mark.parametrize("error", [OSError("input/output error"), RejectedError("bundle-format", "rot")])
def test_start_with_a_version_that_the_disk_has_damaged_rolls_back(bench, error):
    """A file may be unreadable or have other content; neither error ends the agent or keeps the version before away."""
    for version in ("1.0", "2.0"):
        deploy(bench, version)
        live(bench, until=serves(bench, version))
    activate = bench.server.activate

    async def load(name, folder, manifest, deployment=""):
        if manifest.version == "2.0":
            raise error
        await activate(name, folder, manifest, deployment)

    bench.server.activate = load
    bench.start()
    asyncio.run(bench.daemon.start_serving())
    assert bench.server.live == {NAME: "1.0"}
    assert codes(bench) == [getattr(error, "code", "store-failed")]


def test_version_with_a_file_that_cannot_be_read_is_replaced(bench):
    """Neither the chunks that both versions have nor the bases of deltas can be read there: they are fetched whole."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    folder = bench.releases.folder(bench.store.record(NAME).active)
    for name in ("model.onnx", "model.weights"):
        (folder / name).unlink()
        (folder / name).mkdir()
    deploy(bench, "2.0")
    live(bench, until=serves(bench, "2.0"))


def end_of_connection(bench, *errors):
    """Run an agent whose connection has these errors, and then none; the error that has ended it, if one has."""
    bench.start()
    left = list(errors)

    async def run():
        if left:
            raise left.pop(0)
        await asyncio.Event().wait()

    bench.link.run = run

    async def main():
        running = asyncio.create_task(bench.daemon.run())
        await until_async(lambda: running.done() or (bench.daemon.ready and not left))
        running.cancel()
        await asyncio.wait([running])
        return None if running.cancelled() else running.exception()

    return asyncio.run(main())


def test_failure_of_the_connection_ends_no_serving(bench, caplog):
    """It is logged, and tried again: a defect, and a `ca` that the card has lost before the agent's start."""
    deploy(bench, "1.0")
    live(bench, until=serves(bench, "1.0"))
    assert end_of_connection(bench, RuntimeError("a defect"), UsageError("config-invalid", "no such file")) is None
    assert bench.server.live == {NAME: "1.0"}
    assert "a defect" in caplog.text
    assert 'connection: paused code="config-invalid" message="no such file"' in caplog.text


def test_settings_that_can_not_be_used_end_an_agent_that_serves_nothing(bench):
    """The operator who starts it for the first time sees it."""
    ended = end_of_connection(bench, RuntimeError("a defect"), UsageError("config-invalid", "no such file"))
    assert isinstance(ended.exceptions[0], UsageError)

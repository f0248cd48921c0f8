"""The link's life from connection to connection, on a broker in memory."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from edgeml_agent.link import link as links
from edgeml_agent.link.link import RECONNECT_MAX_S, MqttLink
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import messages
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.messages import DeviceState, Report, Topics
from edgeml_io import backoff
from edgeml_io.mqtt import Message, MqttError, RefusedError
from support import fake_time
from support.memory_connection import URL, MemoryConnection

TOPICS = Topics("farm")


class MemoryBroker:
    """A session whose connections are in memory; `refusals` are raised first."""

    url = URL

    def __init__(self):
        self.refusals = []
        self.connections, self.wills, self.opened_s = [], [], []
        self.clock = None

    @asynccontextmanager
    async def connected(self, will):
        """Connect."""
        self.opened_s.append(self.clock.now_s)
        if self.refusals:
            raise self.refusals.pop(0)
        self.wills.append(messages.decode(will.payload, DeviceState))
        self.connections.append(MemoryConnection())
        yield self.connections[-1]

    async def connection(self, number):
        """Wait for a connection that has published its birth."""
        await fake_time.until(lambda: len(self.connections) > number)
        await fake_time.until(lambda: TOPICS.state("pi") in self.connections[number].retained)
        return self.connections[number]


@pytest.fixture
def broker(monkeypatch):
    """The broker of every link."""
    broker = MemoryBroker()
    monkeypatch.setattr(links, "session", lambda *_: broker)
    monkeypatch.setattr(backoff, "jittered", lambda seconds: seconds)
    return broker


def a_link(next_session=None, **options):
    """A device's link."""
    settings = BrokerSettings(url=URL, ca=None, cert=None, key=None)
    sessions = itertools.count(1)
    device = DeviceSettings(id="pi", fleet="farm", labels={})
    return MqttLink(settings, device, next_session or (lambda: next(sessions)), **options)


def live(broker, link_of, steps):
    """Run a link while `steps(link, clock)` goes on, and stop it in order."""

    async def main(clock):
        broker.clock = clock
        link = link_of()
        running = asyncio.create_task(link.run())
        try:
            return await steps(link, clock)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return fake_time.run(main)


def test_stop_publishes_the_state_as_offline(broker):
    """The will says the same for a device that dies."""

    async def steps(link, _):
        link.publish_state(DeviceState(online=True, session=0, arch="aarch64"))
        return await broker.connection(0)

    connection = live(broker, a_link, steps)
    state = messages.decode(connection.retained[TOPICS.state("pi")], DeviceState)
    assert (state.online, state.session, state.arch) == (False, 1, "aarch64")
    assert broker.wills == [state]


def test_lost_connection_is_followed_by_one_with_the_next_session(broker):
    """What is wanted and reported goes over the new one, and files count as changed."""

    async def steps(link, _):
        first = await broker.connection(0)
        await link.announced()
        await link.chunks.want(["a" * 32])
        first.lose()
        await fake_time.until(lambda: not link.is_online)
        link.report(Report(deployment="d", name="mood", version="1", state="fetching", session=0))
        second = await broker.connection(1)
        await link.announced()
        await fake_time.until(lambda: any(topic == TOPICS.report("pi") and data for topic, data in second.published))
        return second

    second = live(broker, a_link, steps)
    assert TOPICS.chunk("a" * 32) in second.subscribed
    assert any(topic == TOPICS.want("pi") and payload for topic, payload in second.published)
    assert [will.session for will in broker.wills] == [1, 2]


def test_delay_grows_until_a_connection_was_stable(broker):
    """It is bounded, and begins again after a good connection."""
    broker.refusals = [MqttError("refused")] * 10

    async def steps(link, clock):
        connection = await broker.connection(0)
        await asyncio.sleep(backoff.STABLE_S + 1)
        lost_s = clock.now_s
        connection.lose()
        await broker.connection(1)
        return lost_s

    lost_s = live(broker, a_link, steps)
    delays = [round(after - before, 3) for before, after in itertools.pairwise(broker.opened_s[:11])]
    assert delays == [1, 2, 4, 8, 16, 32, 64, RECONNECT_MAX_S, RECONNECT_MAX_S, RECONNECT_MAX_S]
    assert broker.opened_s[11] - lost_s == pytest.approx(1.0)


def test_session_that_can_not_be_remembered_still_grows(broker):
    """A device with a full disk must report it."""

    def fails():
        raise DeviceError("disk-full", "no space")

    async def steps(link, _):
        (await broker.connection(0)).lose()
        await broker.connection(1)

    live(broker, lambda: a_link(fails), steps)
    assert [will.session for will in broker.wills] == [1, 2]


def test_error_in_the_settings_ends_the_link(broker):
    """At its start, see `session`; the doctor sees it, too, where the agent serves and starts the link again."""
    broker.refusals, states = [UsageError("config-invalid", "no such file")], []

    async def main(clock):
        broker.clock = clock
        with pytest.raises(UsageError):
            await a_link(on_state=states.append).run()

    fake_time.run(main)
    assert [(it.connected, it.code, it.message) for it in states] == [
        (False, "", ""),
        (False, "config-invalid", "no such file"),
    ]


def test_messages_go_to_the_part_that_owns_their_topic(broker):
    """Echoes of the rights' check to none of them."""

    async def steps(link, _):
        connection, requests = await broker.connection(0), link.open_requests()
        for topic, payload in {
            TOPICS.trust("fleet", "metadata/root.json"): b"root",
            TOPICS.call("pi"): b"call",
            TOPICS.infer("pi", "mood", "camera"): b"request",
            TOPICS.want("pi"): b"",
            TOPICS.report("pi"): b"",
        }.items():
            connection.inbox.put_nowait(Message(topic, payload))
        assert await link.called() == b"call"
        assert (await requests.next()).payload == b"request"
        return link.files.held

    assert live(broker, a_link, steps) == {TOPICS.trust("fleet", "metadata/root.json"): b"root"}


def test_timestamp_of_a_new_host_repeats_starved_wants(broker):
    """Any other file doesn't."""

    async def steps(link, _):
        connection = await broker.connection(0)
        await link.chunks.want(["a" * 32])
        await asyncio.sleep(5)
        counts = []
        for file in ("metadata/2.snapshot.json", "metadata/timestamp.json"):
            connection.inbox.put_nowait(Message(TOPICS.trust("fleet", file), b"x"))
            await asyncio.sleep(0.1)
            counts.append(sum(topic == TOPICS.want("pi") and payload != b"" for topic, payload in connection.published))
        return counts

    assert live(broker, a_link, steps) == [1, 2]


def test_states_of_the_connection_are_passed_on(broker, monkeypatch):
    """From the first attempt to the rights: the doctor has nothing else to read. A full disk ends no connection."""
    states = []

    def on_state(state):
        states.append((state.connected, state.code))
        raise DeviceError("store-failed", "no space")

    def link_of():
        settings = BrokerSettings(url=URL)
        return MqttLink(settings, DeviceSettings(id="pi", fleet="farm"), itertools.count(1).__next__, on_state=on_state)

    async def steps(link, clock):
        broker.refusals = [RefusedError("no such user")]
        await broker.connection(0)
        await fake_time.until(lambda: len(states) == 3)

    live(broker, link_of, steps)
    assert states == [(False, ""), (False, "broker-refused"), (True, "topic-forbidden")]

"""A relay's connection to its site, on a broker in memory."""

import asyncio

from edgeml_agent.relay.cache import Cache
from edgeml_agent.relay.site import Site
from edgeml_agent.settings import BrokerSettings
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message
from edgeml_origin.origin import Origin
from support.memory_connection import URL, MemoryConnection

TOPICS = Topics("farm")
TIMESTAMP, SNAPSHOT = (TOPICS.trust("fleet", f"metadata/{name}.json") for name in ("timestamp", "1.snapshot"))
TARGET, OLD = (TOPICS.trust("fleet", f"targets/{name}") for name in ("new", "old"))


class Listener:
    """Notes messages of the site."""

    def __init__(self):
        self.messages = []

    def on_site_message(self, topic, payload):
        """Note it."""
        self.messages.append((topic, payload))


def a_site():
    """The connection of a relay."""
    return Site(BrokerSettings(url=URL, ca=None, cert=None, key=None), "relay", TOPICS)


async def settled():
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def serve(tmp_path, steps):
    """Serve a connection while `steps(site, connection)` runs; the connection and the listener."""

    async def main():
        site, connection, listener = a_site(), MemoryConnection(), Listener()
        serving = asyncio.create_task(site._serve(connection, Origin(Cache(tmp_path, 1 << 20)), listener))
        await settled()
        await steps(site, connection)
        await settled()
        serving.cancel()
        return connection, listener

    return asyncio.run(main())


def test_retain_publishes_each_file_before_the_one_that_names_it(tmp_path):
    """Targets, then metadata, then the timestamp; the next call clears the old and repeats nothing."""

    async def steps(site, connection):
        site.retain({TIMESTAMP: b"1", SNAPSHOT: b"1", OLD: b"1"})
        await settled()
        assert [topic for topic, _ in connection.published] == [OLD, SNAPSHOT, TIMESTAMP]
        connection.published.clear()
        site.retain({TIMESTAMP: b"2", SNAPSHOT: b"1", TARGET: b"2"})

    connection, _ = serve(tmp_path, steps)
    assert connection.published == [(TARGET, b"2"), (TIMESTAMP, b"2"), (OLD, b"")]


def test_file_that_the_broker_does_not_take_stops_no_other(tmp_path):
    """It is skipped; so is it at a metadata file, which devices then miss alone."""

    async def steps(site, connection):
        connection.payload_max_bytes = 3
        site.retain({TIMESTAMP: b"1", SNAPSHOT: b"1", TARGET: b"long"})
        await settled()
        site.retain({TIMESTAMP: b"2", SNAPSHOT: b"2", TARGET: b"long"})

    connection, _ = serve(tmp_path, steps)
    assert connection.published == [(SNAPSHOT, b"1"), (TIMESTAMP, b"1"), (SNAPSHOT, b"2"), (TIMESTAMP, b"2")]


def test_messages_go_both_ways(tmp_path):
    """Calls down, the devices' messages to the listener."""

    async def steps(site, connection):
        site.pass_down(TOPICS.call("pi"), b"call")
        connection.inbox.put_nowait(Message(TOPICS.state("pi"), b"state"))

    connection, listener = serve(tmp_path, steps)
    assert connection.published == [(TOPICS.call("pi"), b"call")]
    assert listener.messages == [(TOPICS.state("pi"), b"state")]
    assert connection.subscribed == {
        TOPICS.want("+"): 0,
        TOPICS.state("+"): 1,
        TOPICS.report("+"): 1,
        TOPICS.reply("+"): 1,
    }

"""The adapter to MQTT: its inbox, its waits, and what it does with late answers."""

import asyncio
import logging

import aiomqtt
import pytest

from edgeml_core.broker import BrokerUrl
from edgeml_core.messages import Topics
from edgeml_io import mqtt
from edgeml_io.inbox import Inbox
from edgeml_io.mqtt import Connection, MqttError, Options, Session
from support import fake_time


def message(size_bytes, properties=None, topic="t"):
    """A message as aiomqtt has it."""
    return aiomqtt.Message(topic, bytes(size_bytes), qos=0, retain=True, mid=1, properties=properties)


def test_inbox_is_full_by_bytes_and_by_number():
    """Handled messages make room again; short messages are bounded by their number."""
    inbox = Inbox(3, max_bytes=1000)
    inbox.put_nowait(message(999))
    inbox.put_nowait(message(1))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message(1))
    assert len(inbox.get_nowait().payload) == 999
    inbox.put_nowait(message(0))
    inbox.put_nowait(message(0))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message(0))


def test_inbox_without_a_bound_on_bytes_is_full_by_number_alone():
    """The host's."""
    inbox = Inbox(2)
    inbox.put_nowait(message(10**7))
    inbox.put_nowait(message(10**7))
    assert inbox.full()


@pytest.mark.parametrize(("bounds", "size_bytes"), [({"maxsize": 8}, 0), ({"max_bytes": 8000}, 1000)])
def test_inbox_keeps_room_for_others_beside_a_flood(bounds, size_bytes):
    """A signed file that is dropped would not come again on the same connection."""
    inbox, infer = Inbox(**bounds, yields=Topics.is_inference), Topics("farm").infer("board-1", "tiny", "phone")
    for _ in range(4):
        inbox.put_nowait(message(size_bytes, topic=infer))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message(size_bytes, topic=infer))
    for _ in range(4):
        inbox.put_nowait(message(size_bytes, topic=Topics("farm").trust("fleet", "metadata/timestamp.json")))
    assert inbox.full()


def test_only_inference_requests_yield():
    """Whatever fleets and devices are called."""
    topics = Topics("infer")
    others = (topics.call("infer"), topics.report("infer"), topics.trust("fleet", "targets/fleet.json"), "t", "")
    assert Topics.is_inference(topics.infer("device", "infer", "infer"))
    assert not any(map(Topics.is_inference, others))


def test_wait_with_a_cancellation_and_an_answer_is_cancelled():
    """Else a loop that waits again and again would never end."""

    async def main():
        client = mqtt._Client("localhost")
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(client._wait_for(answer, None))
        await asyncio.sleep(0)
        answer.set_result("late")
        waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    assert asyncio.run(main())


@pytest.mark.parametrize("timeout_s", [0.01, None])
def test_wait_without_an_answer_fails_in_time(timeout_s):
    """The call's own time, else the client's."""

    async def main(clock):
        client = mqtt._Client("localhost", timeout=5)
        began_s = clock.now_s
        with pytest.raises(MqttError, match="no answer in time"):
            await client._wait_for(asyncio.Event().wait(), timeout_s)
        assert clock.now_s - began_s == pytest.approx(timeout_s or 5)

    fake_time.run(main)


def test_wait_ends_with_the_connection():
    """Though its own time is unbounded."""

    async def main():
        client = mqtt._Client("localhost")
        waiting = asyncio.create_task(client._wait_for(asyncio.Event().wait(), float("inf")))
        await asyncio.sleep(0)
        client.ended.set_result(None)
        with pytest.raises(MqttError, match="connection was lost"):
            await waiting

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_late_answer_to_a_cancelled_call_is_no_error(kind, caplog):
    """The broker confirms after the caller was cancelled; an answer to no call at all is still an error."""

    async def main():
        client = mqtt._Client("localhost")
        pending = getattr(client, f"_pending_{kind}s")
        on_answer = getattr(client, f"_on_{kind}")

        async def call():
            with client._pending_call(7, asyncio.Event(), pending):
                await asyncio.sleep(60)

        calling = asyncio.create_task(call())
        await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait({calling})
        on_answer(None, None, 7, [])
        assert not caplog.records
        on_answer(None, None, 8, [])
        assert caplog.records

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())


def test_packet_id_of_a_cancelled_call_can_be_used_again():
    """There are 65,535 of them, and a session lasts for weeks."""

    async def main():
        client = mqtt._Client("localhost")
        with pytest.raises(MqttError), client._pending_call(7, asyncio.Event(), client._pending_unsubscribes):
            raise MqttError("no answer")
        confirmed = asyncio.Event()
        with client._pending_call(7, confirmed, client._pending_unsubscribes):
            client._on_unsubscribe(None, None, 7, [])
            assert confirmed.is_set()

    asyncio.run(main())


def test_received_message_has_the_properties_of_mqtt_5():
    """None where the sender set none, or speaks 3.1.1."""

    class Properties:
        MessageExpiryInterval, ResponseTopic, CorrelationData = 5, "reply", b"7"

    async def main():
        client = mqtt._Client("localhost")
        for properties in (None, Properties()):
            client._queue.put_nowait(message(1, properties))
        connection = Connection(client)
        return [await anext(connection), await anext(connection)]

    plain, rich = asyncio.run(main())
    assert plain == mqtt.Message("t", b"\0", retain=True)
    assert rich == mqtt.Message("t", b"\0", retain=True, expires_s=5, reply_to="reply", correlation=b"7")


def test_publish_counts_the_correlation_data(monkeypatch):
    """Its client chooses it. A packet above the broker's limit would end the connection."""
    sent = []

    async def publish(_client, topic, *_, **__):
        sent.append(topic)

    monkeypatch.setattr(mqtt._Client, "publish", publish)

    async def main():
        client = mqtt._Client("localhost")
        client.packet_max_bytes = 100_000
        connection, payload = Connection(client), bytes(100_000 - 2000)
        return [await connection.publish("t", payload, correlation=bytes(size)) for size in (0, 900, 5000)]

    assert asyncio.run(main()) == [True, True, False]
    assert sent == ["t", "t"]


def connect(monkeypatch, times, accepts):
    """Connect a session some times; a client that isn't accepted is refused. Return each one's version and timeout."""
    tried = []

    async def enter(client):
        tried.append((aiomqtt.ProtocolVersion(client._client._protocol).name, client.timeout))
        if not accepts(tried[-1][0]):
            raise MqttError("refused")
        return client

    async def leave(client, *_):
        return None

    monkeypatch.setattr(mqtt._Client, "__aenter__", enter)
    monkeypatch.setattr(mqtt._Client, "__aexit__", leave)

    async def main():
        session = Session(BrokerUrl(host="h", port=1, tls=False), "me", Options(inbox_max_messages=1))
        for _ in range(times):
            async with session.connected():
                pass

    asyncio.run(main())
    return tried


@pytest.mark.parametrize(("accepted", "tried"), [("V5", ["V5", "V5"]), ("V311", ["V5", "V311", "V311"])])
def test_session_remembers_the_version_that_the_broker_accepts(monkeypatch, accepted, tried):
    """MQTT 5 is tried first; the next connection begins with the version that was accepted."""
    assert [version for version, _ in connect(monkeypatch, 2, lambda version: version == accepted)] == tried


def test_broker_that_is_slow_once_keeps_mqtt_5(monkeypatch):
    """After its restart thousands connect. With 3.1.1 it would tell no limit, and drop the properties of requests."""
    answers, known = iter([True, False, True, True]), ("V5", mqtt.TIMEOUT_S)
    tried = connect(monkeypatch, 3, lambda _: next(answers))
    assert tried == [("V5", mqtt.ACCEPT_TIMEOUT_S), known, ("V311", mqtt.TIMEOUT_S), known]

"""Requests to models as messages, and the answers."""

import asyncio

import pytest

from edgeml_agent.link import inference_requests
from edgeml_agent.link.current import CurrentConnection
from edgeml_agent.link.inference_requests import REQUEST_MAX_BYTES, InferenceRequests
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message
from support import fake_time
from support.memory_connection import URL, MemoryConnection

TOPICS = Topics("farm")


def requests_of(current=None):
    """The open queue of a device."""
    return InferenceRequests(TOPICS, "pi", current or CurrentConnection(URL)).open()


def message(payload=b"{}", model="mood", client="camera", **properties):
    """A request."""
    return Message(TOPICS.infer("pi", model, client), payload, **properties)


async def queued(requests):
    """All requests in the queue."""
    found = []
    while True:
        try:
            async with asyncio.timeout(0.1):
                found.append(await requests.next())
        except TimeoutError:
            return found


def test_request_has_its_properties_and_its_time_of_arrival():
    """The expiry counts from then."""

    async def main(clock):
        requests = requests_of()
        clock.now_s = 1234.0
        requests.on_message(message(b"x", expires_s=5, reply_to="there", correlation=b"7"))
        return await requests.next()

    found = fake_time.run(main)
    assert (found.model, found.client, found.payload, found.arrived_s) == ("mood", "camera", b"x", 1234.0)
    assert (found.expires_s, found.reply_to, found.correlation) == (5, "there", b"7")


def test_retained_and_malformed_requests_are_dropped():
    """Nobody waits for the one, and the others name no model or no client."""

    async def main(_):
        requests = requests_of()
        for it in (message(retain=True), message(model="../x"), message(model="a/b"), message(model="")):
            requests.on_message(it)
        for client in ("", "a/b", "+", "#", "\n", "x" * 129):
            requests.on_message(message(client=client))
        requests.on_message(Message(f"{TOPICS.root}/device/pi/infer/mood", b"{}"))
        return await queued(requests)

    assert fake_time.run(main) == []


def test_long_request_arrives_without_its_payload():
    """So that it can be refused with a reason."""

    async def main(_):
        requests = requests_of()
        requests.on_message(message(bytes(REQUEST_MAX_BYTES + 1)))
        requests.on_message(message(bytes(REQUEST_MAX_BYTES)))
        return [it.payload and len(it.payload) for it in await queued(requests)]

    assert fake_time.run(main) == [None, REQUEST_MAX_BYTES]


def test_flood_is_bounded_by_number_and_bytes(monkeypatch):
    """The newest are dropped; handled requests make room again."""
    monkeypatch.setattr(inference_requests, "QUEUED_MAX_BYTES", 1000)

    async def main(_):
        requests = requests_of()
        for _ in range(2):
            for _ in range(10):
                requests.on_message(message(bytes(300)))
                requests.on_message(message(bytes(300), client="door"))
            assert [it.client for it in await queued(requests)] == ["camera", "door"] * 2
        for number in range(2 * inference_requests.QUEUED_MAX):
            requests.on_message(message(b"", client=f"client-{number}"))
        return len(await queued(requests))

    assert fake_time.run(main) == inference_requests.QUEUED_MAX


@pytest.mark.parametrize("size_bytes", [0, 400])
def test_flood_of_one_client_leaves_room_for_others(monkeypatch, size_bytes):
    """By number and by bytes; what it has room for again comes."""
    monkeypatch.setattr(inference_requests, "QUEUED_MAX_BYTES", 16_000)

    async def main(_):
        requests = requests_of()
        for _ in range(2):
            for _ in range(2 * inference_requests.QUEUED_MAX):
                requests.on_message(message(bytes(size_bytes)))
            requests.on_message(message(b"", client="sensor"))
            found = [it.client for it in await queued(requests)]
            assert found == ["camera"] * (30 if size_bytes else 192) + ["sensor"]

    fake_time.run(main)


def test_closed_queue_subscribes_to_nothing_and_takes_nothing():
    """A device whose models are asked over HTTP only."""

    async def main(_):
        requests = InferenceRequests(TOPICS, "pi", CurrentConnection(URL))
        requests.on_message(message())
        assert requests.subscriptions == []
        assert requests.open().subscriptions == [(TOPICS.infer("pi", "+", "+"), 0)]
        return await queued(requests)

    assert fake_time.run(main) == []


def test_publish_without_a_connection_is_lost():
    """The caller learns of it, also when the connection ends meanwhile."""

    async def main(_):
        current, connection = CurrentConnection(URL), MemoryConnection()
        requests = requests_of(current)
        assert not await requests.publish("there", b"x")
        with current.use(connection):
            assert await requests.publish("there", b"x")
            connection.lose()
            assert not await requests.publish("there", b"x", retain=True)
        return connection.published

    assert fake_time.run(main) == [("there", b"x")]

"""The adapter to MQTT on a real broker."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from edgeml_core import broker as broker_urls
from edgeml_io.mqtt import MqttError, Options, Session
from support import brokers
from support.waiting import TIMEOUT_S


@pytest.mark.parametrize("call", ["subscribe", "unsubscribe"])
def test_cancelled_call_whose_answer_comes_later_logs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """The answer is still on its way; aiomqtt alone logs a KeyError with its traceback."""

    async def run(url: str) -> None:
        session = Session(broker_urls.parse(url), "adapter", Options(inbox_max_messages=10))
        async with session.connected() as connection:
            await connection.subscribe([("topic", 1)])
            arguments: list[object] = [("topic", 1)] if call == "subscribe" else ["topic"]
            calling = asyncio.create_task(getattr(connection, call)(arguments))
            await asyncio.sleep(0)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            # The broker answers in order: with this answer, the other one has come.
            await connection.subscribe([("other", 0)])

    with caplog.at_level(logging.DEBUG), brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker.url))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_wait_for_an_answer_ends_with_the_connection(tmp_path: Path) -> None:
    """A call without a bound in time fails when the block of its connection ends."""

    async def run(url: str) -> None:
        session = Session(broker_urls.parse(url), "adapter", Options(inbox_max_messages=10))
        async with session.connected() as connection:
            brokers_hold = asyncio.create_task(connection.publish("topic", bytes(10**7), qos=1, timeout_s=float("inf")))
            await asyncio.sleep(0)
        with pytest.raises(MqttError, match="lost"):
            async with asyncio.timeout(TIMEOUT_S):
                await brokers_hold

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker.url))


def test_session_that_lasts_receives_messages_of_its_absence(tmp_path: Path) -> None:
    """Of QoS 1; another session of the same client begins empty."""

    async def run(url: str) -> None:
        def session(*, is_lasting: bool) -> Session:
            return Session(broker_urls.parse(url), "adapter", Options(is_lasting=is_lasting, inbox_max_messages=10))

        async def send() -> None:
            other = Session(broker_urls.parse(url), "other", Options(is_lasting=False, inbox_max_messages=10))
            async with other.connected() as connection:
                await connection.publish("topic", b"missed", qos=1)

        async with session(is_lasting=True).connected() as connection:
            await connection.subscribe([("topic", 1)])
        await send()
        async with session(is_lasting=True).connected() as connection, asyncio.timeout(TIMEOUT_S):
            assert (await anext(connection)).payload == b"missed"
        await send()
        async with session(is_lasting=False).connected() as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await anext(connection)

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker.url))


def test_message_that_is_not_acknowledged_comes_again(tmp_path: Path) -> None:
    """On the next connection of the session, until its receiver acknowledges it; a flood doesn't stop the broker."""

    async def run(url: str) -> None:
        options = Options(inbox_max_messages=1, acknowledges=True)
        session = Session(broker_urls.parse(url), "adapter", options)
        other = Session(broker_urls.parse(url), "other", Options(is_lasting=False, inbox_max_messages=1))
        async with other.connected() as sender, asyncio.timeout(60):
            async with session.connected() as connection:
                await connection.subscribe([("topic", 1)])
                await sender.publish("topic", b"first", qos=1)
                assert (await anext(connection)).payload == b"first"
            async with session.connected() as connection:
                again = await anext(connection)
                assert again.payload == b"first"
                connection.acknowledge(again)
                # More than Mosquitto sends without acknowledgements, and than the inbox takes.
                for _ in range(60):
                    await sender.publish("topic", b"flood", qos=1)
                connection.acknowledge(await anext(connection))
                await sender.publish("topic", b"last", qos=1)
                while (message := await anext(connection)).payload != b"last":
                    connection.acknowledge(message)
            connection.acknowledge(message)  # the connection has ended: it stays with the broker
            async with session.connected() as connection:
                assert (await anext(connection)).payload == b"last"

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker.url))

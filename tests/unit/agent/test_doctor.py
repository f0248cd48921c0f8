"""The doctor: each check against a machine that is well, and one that isn't."""

import asyncio
import contextlib
import socket
import threading

from amqtt.broker import Broker

from edgeml_agent import doctor
from edgeml_agent.settings import BrokerSettings
from edgeml_core import broker as brokers


def settings_of(port, user=""):
    """The settings of a broker on loopback."""
    return BrokerSettings(url=brokers.parse(f"mqtt://{user}127.0.0.1:{port}"), ca=None, cert=None, key=None)


@contextlib.contextmanager
def answering(answer):
    """A port that takes one connection, answers its first bytes, and keeps what came: (port, received)."""
    received = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take():
            link, _ = listener.accept()
            with link:
                received.append(link.recv(1024))
                link.sendall(answer)
                received.append(link.recv(1024))

        thread = threading.Thread(target=take)
        thread.start()
        yield listener.getsockname()[1], received
        thread.join(10)


def test_this_machine_is_well():
    """Without settings nothing fails: all that is needed is installed where these tests run."""
    checks = doctor.run(None)
    assert [check for check in checks if check.status == "failed"] == []
    assert {"python", "cpu", "onnxruntime", "litert", "imports", "memory", "disk", "clock"} <= {c.name for c in checks}


def test_the_hottest_sensor_counts(tmp_path):
    """Sensors that can't be read, or say nothing, don't hide the others."""
    for number, content in enumerate(["41000\n", "85000\n", "", "none"]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(content)
    check = doctor.heat(tmp_path)
    assert (check.status, check.detail) == ("warning", "85 C")
    assert doctor.heat(tmp_path / "absent").status == "ok"


def test_a_real_broker_lets_the_doctor_in():
    """The embedded broker takes the CONNECT."""

    async def main():
        config = {"listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}}, "auth": {"allow-anonymous": True}}
        broker = Broker(config)
        await broker.start()
        port = broker._servers["default"].instance.sockets[0].getsockname()[1]
        check = await asyncio.to_thread(doctor.broker, settings_of(port))
        await broker.shutdown()
        return check

    check = asyncio.run(main())
    assert (check.status, check.remedy) == ("ok", ""), check


def test_the_credentials_are_sent_and_never_shown():
    """User and password are in the CONNECT, byte for byte, and in no detail."""
    with answering(b"\x20\x02\x00\x04") as (port, received):
        check = doctor.broker(settings_of(port, user="device-7:pass%2Fword@"))
    assert check.status == "failed"
    assert "user name or password" in check.detail
    assert "pass/word" not in check.detail + check.remedy
    connect, goodbye = received
    assert connect[2:12] == b"\x00\x04MQTT\x04\xc0\x00\x0a"
    assert connect.endswith(b"\x00\x08device-7\x00\x09pass/word")
    assert connect[1] == len(connect) - 2
    assert goodbye == b"\xe0\x00"


def test_a_long_password_gets_a_length_of_two_bytes():
    """MQTT writes lengths in base 128."""
    with answering(b"\x20\x02\x00\x00") as (port, received):
        assert doctor.broker(settings_of(port, user=f"u:{'p' * 200}@")).status == "ok"
    connect = received[0]
    assert (connect[1] & 0x7F) + connect[2] * 128 == len(connect) - 3


def test_what_is_no_broker_fails():
    """A web server on the port is told from a broker that refuses."""
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        assert "MQTT" in doctor.broker(settings_of(port)).detail


def test_a_closed_port_fails():
    """Nobody listens: the remedy names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    check = doctor.broker(settings_of(port))
    assert (check.status, "[broker]" in check.remedy) == ("failed", True)

"""The doctor: each check against a machine that is well, and one that isn't."""

import socket
import threading
from datetime import UTC, datetime

from paho.mqtt import publish

from edgeml_agent import settings
from edgeml_agent.commands import doctor
from edgeml_agent.link import link_state
from edgeml_agent.link.link_state import LinkState
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import broker as urls
from edgeml_core import records
from edgeml_core.messages import Topics
from edgeml_core.records import DeviceRecord, SignedRecord
from edgeml_io import mqtt
from support import brokers

DEVICE = DeviceSettings(id="device-7", fleet="edge", labels={})


def settings_of(port, user=""):
    """The settings of a broker on loopback."""
    return BrokerSettings(url=urls.parse(f"mqtt://{user}127.0.0.1:{port}"), ca=None, cert=None, key=None)


def hang_up(listener):
    """Answer two connections as a web server would."""
    for _ in range(2):
        link, _ = listener.accept()
        with link:
            link.recv(1024)
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_doctor_on_this_host_finds_no_failure():
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


def test_real_brokers_let_the_doctor_in(tmp_path):
    """One of MQTT 5, and one that speaks 3.1.1 only."""
    with brokers.mosquitto(tmp_path) as mosquitto, brokers.embedded() as url:
        for port in (mosquitto.port, urls.parse(url).port):
            check, *_ = doctor.broker(settings_of(port), DEVICE)
            assert (check.status, check.remedy) == ("ok", ""), check


def test_record_that_the_broker_lacks_or_has_is_shown(tmp_path):
    """A missing right looks like a host that doesn't run: labels don't arrive."""
    record = DeviceRecord(
        fleet=DEVICE.fleet,
        device=DEVICE.id,
        version=3,
        labels={"site": "barn"},
        expires=datetime(2100, 1, 1, tzinfo=UTC),
    )
    lines = (b"", b"garbage", records.encode(SignedRecord(signed=record, signatures=())))
    with brokers.mosquitto(tmp_path) as mosquitto:
        found = []
        for line in lines:
            topic = Topics(DEVICE.fleet).record(DEVICE.id)
            publish.single(topic, line, qos=1, retain=True, port=mosquitto.port)
            *_, check = doctor.broker(settings_of(mosquitto.port), DEVICE)
            found.append((check.name, check.status, check.detail))
    assert [status for _, status, _ in found] == ["warning", "failed", "ok"]
    assert found[-1] == ("record", "ok", "version 3 with site=barn")


def test_wrong_credentials_fail_and_are_never_shown(tmp_path):
    """A broker that asks for a password refuses a wrong one; the remedy names the setting."""
    (tmp_path / "passwords").write_text("")
    with brokers.mosquitto(tmp_path, f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}") as broker:
        check, *_ = doctor.broker(settings_of(broker.port, user="device-7:pass%2Fword@"), DEVICE)
    assert (check.status, "credentials" in check.remedy) == ("failed", True)
    assert "pass/word" not in check.detail + check.remedy


def test_what_is_no_broker_fails(monkeypatch):
    """A web server on the port hangs up on MQTT."""
    monkeypatch.setattr(mqtt, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        check, *_ = doctor.broker(settings_of(listener.getsockname()[1]), DEVICE)
        thread.join(10)
    assert check.status == "failed"


def test_a_closed_port_fails():
    """Nobody listens: the remedy names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    check, *_ = doctor.broker(settings_of(port), DEVICE)
    assert (check.status, "[broker]" in check.remedy) == ("failed", True)


def test_state_of_a_running_agent_tells_what_it_is_connected_to(tmp_path):
    """An agent that has just begun, or that knows another broker than agent.toml, is no failure of the broker."""
    text = '[device]\nid = "device-7"\n[broker]\nurl = "mqtt://user:secret@broker.example"\n'
    (tmp_path / "agent.toml").write_text(text)
    loaded = settings.load(tmp_path / "agent.toml", {})
    loaded.store.dir.mkdir()
    assert doctor.connection_of_agent(loaded).status == "warning"
    (loaded.store.dir / link_state.FILE_NAME).write_bytes(b"damaged")
    assert doctor.connection_of_agent(loaded).status == "warning"
    for address, connected, status, detail in (
        ("mqtt://broker.example:1883", True, "ok", "is connected since 1970-01-01 00:01 UTC"),
        ("mqtt://broker.example:1883", False, "warning", "connects to mqtt://broker.example:1883"),
        ("mqtt://other.example:1883", True, "warning", "uses mqtt://other.example:1883"),
    ):
        link_state.write(loaded.store.dir, LinkState(broker=address, connected=connected, since_s=60.0))
        check = doctor.connection_of_agent(loaded)
        assert (check.status, detail in check.detail) == (status, True), check

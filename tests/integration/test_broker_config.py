"""The broker as `edgeml fleet broker-config` sets it up: TLS, certificates, rights by topic, with a real Mosquitto."""

import asyncio
import datetime as dt
import itertools
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import aiomqtt
import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tests.integration.test_serving import unpacked
from tests.support import task_models

from edgeml import repository
from edgeml.fleet import call, serve
from edgeml.fleet.broker_process import BrokerProcess
from edgeml.fleet.call import DeviceConnection
from edgeml.fleet.link import Broker
from edgeml.repository import Repository, broker_config, broker_folder, client_certificates, layout
from edgeml_agent import settings
from edgeml_agent.commands import doctor
from edgeml_agent.link import link_state
from edgeml_agent.link.link import MqttLink
from edgeml_agent.link.session import session
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_agent.serve.models import Models
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_agent.store import locks
from edgeml_core import broker as broker_urls
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io import echo_check
from edgeml_io.mqtt import MqttError
from support import brokers, paho_clients
from support.certificates import DAY, certify
from support.ports import free_port
from support.programs import programs
from support.waiting import TIMEOUT_S, until, until_async

TOPICS = Topics("edge")
USERS = {
    "origin": "host",
    "operator": "operator",
    "client": "client",
    "barn-1": "device",
    "barn-2": "device",
    "relay-1": "relay",
    "home": "homeassistant",
}
NOT_AUTHORIZED = 135  # MQTT 5, reason code 0x87


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker by the configuration of a repository; its folder has the authority, and a certificate for each user."""
    folder = tmp_path_factory.mktemp("broker")
    made = Repository.init(folder / "repo", passphrase="")
    made.configure_broker(folder / "config", "127.0.0.1")
    opened = layout.opened(made.path)
    with opened.locked():
        for user, role in USERS.items():
            issued = client_certificates.issue_with_key(opened, user, role, layout.utc_now())
            (folder / f"{user}.pem").write_bytes(issued)
        client_certificates.refresh_brokers(opened, layout.utc_now())
    shutil.copy(opened.authorities.path("broker-ca"), folder / "ca.crt")
    # The test's own lines are before these, and name a port of loopback alone.
    config = re.sub(r"(?m)^(user|listener) .*$", "", (folder / "config" / "mosquitto.conf").read_text())
    with brokers.mosquitto(folder, config) as running:
        yield running


@pytest.fixture
def password_broker(tmp_path):
    """A broker with a user and a password, and no rights by topic."""
    certify(tmp_path)
    (tmp_path / "passwords").touch(mode=0o600)
    subprocess.run([shutil.which("mosquitto_passwd"), "-b", tmp_path / "passwords", "origin", "right"], check=True)
    tls = f"certfile {tmp_path}/broker.crt\nkeyfile {tmp_path}/broker.key"
    with brokers.mosquitto(tmp_path, f"allow_anonymous false\npassword_file {tmp_path}/passwords\n{tls}") as running:
        yield running


def address(broker):
    """Where its users connect."""
    return broker_urls.parse(f"mqtts://127.0.0.1:{broker.port}")


def as_user(broker, user):
    """The settings of a device's connection as `user`; None has no certificate."""
    certificate = None if user is None else broker.folder / f"{user}.pem"
    return BrokerSettings(url=address(broker), ca=broker.folder / "ca.crt", cert=certificate)


@pytest.mark.parametrize(
    ("right", "silent"),
    [
        ("trust/#", TOPICS.trust("echo", "barn-1")),
        ("chunk/#", TOPICS.chunk("echo/barn-1")),
        ("want/%u", TOPICS.want("barn-1")),
        ("device/%u/state", TOPICS.state("barn-1")),
        ("device/%u/report", TOPICS.report("barn-1")),
        ("device/%u/reply", TOPICS.reply("barn-1")),
        ("device/%u/infer/+/+", TOPICS.infer("barn-1", "echo", "barn-1")),
        ("device/%u/infer/echo/%u", TOPICS.infer("barn-1", "echo", "barn-1")),
        ("device/%u/answer/+", TOPICS.answer("barn-1", "echo")),
        ("client/+/%u", TOPICS.client("echo", "barn-1")),
        (None, None),
    ],
)
def test_missing_right_is_named(tmp_path, monkeypatch, right, silent):
    """Though every SUBSCRIBE is granted and every PUBLISH looks well."""
    heard = echo_check.EchoCheck.on_echo

    def on_echo(check, message):
        heard(check, message)
        if check._missing == {silent}:
            asyncio.get_running_loop().call_later(0.5, check._is_complete.set)

    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", TIMEOUT_S)
    monkeypatch.setattr(echo_check.EchoCheck, "on_echo", on_echo)
    whole = broker_config.access_list("edge", [], []).splitlines()
    acl = [line for line in whole if not right or not line.endswith(right)]
    (tmp_path / "acl").write_text("\n".join(acl))
    (tmp_path / "passwords").touch(mode=0o600)
    subprocess.run([shutil.which("mosquitto_passwd"), "-b", tmp_path / "passwords", "barn-1", "secret"], check=True)
    config = f"allow_anonymous false\npassword_file {tmp_path}/passwords\nacl_file {tmp_path}/acl"
    with brokers.mosquitto(tmp_path / "broker", config) as broker:
        url = broker_urls.parse(f"mqtt://barn-1:secret@127.0.0.1:{broker.port}")
        given = BrokerSettings(url=url, ca=None, cert=None, key=None)
        check, *_ = doctor.broker(given, DeviceSettings(id="barn-1", fleet="edge", labels={}), requests=True)
    if silent is None:
        assert check.status == "ok", check
    else:
        assert (check.status, check.detail.rpartition(" on ")[2]) == ("failed", silent)


def test_access_list_that_changes_before_the_host_looks_is_read_again(tmp_path):
    """A command may certify or revoke a client in the moment after Mosquitto has started."""
    made, said = Repository.init(tmp_path / "repo", passphrase=""), []
    opened = layout.opened(made.path)
    with opened.locked():
        settings = broker_folder.write(opened, tmp_path / "broker", ("localhost",), layout.utc_now(), port=free_port())
    events = SimpleNamespace(event=lambda _name, text, **_fields: said.append(text))

    async def main():
        process = BrokerProcess(tmp_path / "broker", settings, events)
        await process.start()
        made.certify_client("camera", role="client", output=tmp_path / "camera")
        running = asyncio.create_task(process.run())
        await until_async(lambda: any("Reloading config" in it for it in said), "it reads the access list again")
        running.cancel()
        await asyncio.wait({running})
        await process.stop()

    asyncio.run(main())


def hosted(broker, repo, user, until):
    """Serve a repository as a user until an event has come; all events with their codes."""
    events = []

    class Events:
        def event(self, name, text, **fields):
            events.append((name, fields.get("code")))

    async def main():
        where = Broker(url=address(broker), ca=broker.folder / "ca.crt", cert=broker.folder / f"{user}.pem")
        service = asyncio.create_task(serve.serve(repo, where, Events()))
        await until_async(lambda: service.done() or until in [name for name, _ in events], until)
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)

    asyncio.run(main())
    return events


@pytest.mark.parametrize(("fleet", "user"), [("farms", "origin"), ("edge", "barn-1")])
def test_host_without_rights_reports_them_and_announces_nothing(broker, tmp_path, monkeypatch, fleet, user):
    """Mosquitto takes each of its messages, and drops them: the access list names another fleet or user."""
    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", 0.5)
    repository.init(tmp_path / "repo", fleet=fleet)
    events = hosted(broker, tmp_path / "repo", user, "rights-missing")
    assert ("rights-missing", "topic-forbidden") in events
    assert not {"announced", "repaired"} & {name for name, _ in events}


def test_wrong_password_has_its_own_code(password_broker, tmp_path):
    """For the host, a call and the doctor; none of them names the password."""
    broker = password_broker
    repository.init(tmp_path / "repo")
    url = broker_urls.parse(f"mqtts://origin:mistyped@127.0.0.1:{broker.port}")
    where = Broker(url=url, ca=broker.folder / "ca.crt")
    with pytest.raises(TransportError) as host:
        asyncio.run(serve.serve(tmp_path / "repo", where, None))
    connection = DeviceConnection(broker=where, fleet="edge")
    with pytest.raises(TransportError) as caller:
        call.ask(connection, "barn-1", call.new("logs"))
    for error in (host.value, caller.value):
        assert (error.code, "--password-file" in error.hint) == ("broker-refused", True)
        assert "mistyped" not in f"{error.message} {error.__cause__}"
    given = BrokerSettings(url=url, ca=broker.folder / "ca.crt")
    check, *_ = doctor.broker(given, DeviceSettings(id="barn-1"))
    assert (check.status, "user's name, password" in check.detail) == ("failed", True)


def test_doctor_beside_a_running_agent_asks_it_and_leaves_it_connected(broker, tmp_path, monkeypatch):
    """A connection of its own would end the agent's, as both have the id of the user; problems are the agent's own."""
    repository.init(tmp_path / "repo")
    enrolled = repository.enroll(tmp_path / "repo", "barn-1", labels={}, broker_url=None, out_dir=tmp_path / "device")
    monkeypatch.setenv("EDGEML_BROKER_CA", str(broker.folder / "ca.crt"))
    monkeypatch.setenv("EDGEML_BROKER_URL", str(address(broker)))
    monkeypatch.setenv("EDGEML_SERVE_HTTP", "127.0.0.1:0")

    def found_beside(user, check):
        monkeypatch.setenv("EDGEML_BROKER_CERT", str(broker.folder / f"{user}.pem"))
        loaded = settings.load(Path(enrolled.config), os.environ)
        (tmp_path / "agent.log").unlink(missing_ok=True)
        link_state.clear(loaded.store.dir)
        with programs() as started:
            started.start(tmp_path / "agent.log", "-m", "edgeml_agent", "run", "--config", enrolled.config)
            seen = []

            def has_ended():
                if locks.is_held(loaded.store.dir / locks.AGENT):
                    seen.append(check(loaded))
                return seen and seen[-1].status != "warning"

            until(has_ended, "the agent has recorded its connection")
        return seen[-1]

    def visited(loaded):
        return next(it for it in doctor.run(loaded) if it.name == "broker")

    right = found_beside("barn-1", visited)
    assert right.status == "ok", right
    assert "the running agent is connected since" in right.detail
    assert "disconnected" not in (tmp_path / "agent.log").read_text()
    foreign = found_beside("barn-2", doctor.connection_of_agent)
    assert (foreign.status, TOPICS.want("barn-1") in foreign.detail) == ("failed", True)


def test_late_clock_ignores_validity_periods_only(tmp_path):
    """The certificate may begin at any time then, and only then; its authority must still be known."""
    certify(tmp_path, since=DAY)
    now = dt.datetime.now(dt.UTC)
    config = f"allow_anonymous true\ncertfile {tmp_path}/broker.crt\nkeyfile {tmp_path}/broker.key"

    def visit(ca, late_floor):
        url = broker_urls.parse(f"mqtts://127.0.0.1:{broker.port}")
        given = BrokerSettings(url=url, ca=ca, cert=None, key=None)

        async def connect():
            async with session(given, "barn-1", lambda: late_floor).connected():
                pass

        asyncio.run(connect())

    with brokers.mosquitto(tmp_path / "broker", config) as broker:
        visit(tmp_path / "ca.crt", now - DAY)
        with pytest.raises(MqttError, match="not yet valid"):
            visit(tmp_path / "ca.crt", None)
        (tmp_path / "other").mkdir()
        certify(tmp_path / "other")
        with pytest.raises(MqttError, match="certificate verify failed"):
            visit(tmp_path / "other" / "ca.crt", now)


def test_late_clock_accepts_no_certificate_that_ended_before_the_newest_signed_time(tmp_path):
    """The client refuses it after the handshake: the broker receives no CONNECT, and so no password."""
    certify(tmp_path, since=-9 * DAY, until=-2 * DAY)
    now, passwords = dt.datetime.now(dt.UTC), tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run([shutil.which("mosquitto_passwd"), "-b", passwords, "barn-1", "secret"], check=True)
    tls = f"certfile {tmp_path}/broker.crt\nkeyfile {tmp_path}/broker.key"
    config = f"allow_anonymous false\npassword_file {passwords}\n{tls}"

    async def connect(floor):
        url = broker_urls.parse(f"mqtts://barn-1:secret@127.0.0.1:{broker.port}")
        async with session(BrokerSettings(url=url, ca=tmp_path / "ca.crt"), "barn-1", lambda: floor).connected():
            pass

    with brokers.mosquitto(tmp_path / "broker", config) as broker:
        with pytest.raises(MqttError, match="certificate has expired"):
            asyncio.run(connect(now - DAY))
        assert "barn-1" not in broker.log
        asyncio.run(connect(now - 3 * DAY))
        until(lambda: "barn-1" in broker.log, "the broker has logged the client")


def test_certificate_decides_the_user(broker, tmp_path, monkeypatch):
    """Its name is the user's, with that user's rights only; without one of this fleet no client gets in."""

    def visit(device, given):
        return next(doctor.broker(given, DeviceSettings(id=device, fleet="edge", labels={})))

    assert visit("barn-1", as_user(broker, "barn-1")).status == "ok"
    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", 0.5)
    assert visit("barn-2", as_user(broker, "barn-1")).status == "failed"
    other = layout.opened(Repository.init(tmp_path / "other", passphrase="").path)
    with other.locked():
        foreign = client_certificates.issue_with_key(other, "barn-1", "device", layout.utc_now())
    (tmp_path / "foreign.pem").write_bytes(foreign)
    stranger = msgspec.structs.replace(as_user(broker, None), cert=tmp_path / "foreign.pem")
    server = msgspec.structs.replace(as_user(broker, None), cert=broker.folder / "config" / "broker.pem")
    key, certificate = ((broker.folder / "config" / f"broker.{it}").read_bytes() for it in ("key", "crt"))
    server.cert.write_bytes(key + certificate)
    for given in (stranger, server, as_user(broker, None)):
        check = visit("barn-1", given)
        assert (check.status, "check cert and key" in check.detail) == ("failed", True)


class Client:
    """A user with the right certificate, and with no good will."""

    def __init__(self, broker, user, **session):
        self.heard, self.refused, self._done = [], [], threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "barn-1", protocol=paho.MQTTv5)
        # Every user may claim any other's client id and name; the certificate's name counts.
        self._client.username_pw_set("origin", "any")
        self._client.tls_set(str(broker.folder / "ca.crt"), str(broker.folder / f"{user}.pem"))
        self._client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self._client.on_publish = self._published
        self._client.on_subscribe = lambda *_: self._done.set()
        self._client.connect("127.0.0.1", broker.port, **session)
        self._client.loop_start()

    def _published(self, _client, _data, _mid, reason, _properties):
        self.refused.append(reason.value == NOT_AUTHORIZED)
        self._done.set()

    def subscribe(self, topic):
        """Subscribe; Mosquitto grants whatever is asked."""
        self._done.clear()
        self._client.subscribe(topic, qos=1)
        assert self._done.wait(TIMEOUT_S)

    def publish(self, topic):
        """Publish; whether the broker refused it."""
        self._done.clear()
        self._client.publish(topic, b"{}", qos=1)
        assert self._done.wait(TIMEOUT_S)
        return self.refused[-1]

    def publish_many(self, topic, count):
        """Publish without waiting for each; whether the broker has taken all of them."""
        for number in range(count):
            self._client.publish(topic, b"%d" % number, qos=1)
        until(lambda: len(self.refused) == count, "all are acknowledged")
        return not any(self.refused)

    def close(self):
        """Leave."""
        paho_clients.leave(self._client)


def test_device_publishes_on_its_own_topics_only(broker):
    """It may want, tell its state, report and reply; not as another device, not as the origin, and call nobody."""
    client = Client(broker, "barn-2")
    own = [TOPICS.want("barn-2"), TOPICS.renew("barn-2"), TOPICS.state("barn-2"),
           TOPICS.report("barn-2"), TOPICS.reply("barn-2"), TOPICS.answer("barn-2", "mood"),
           TOPICS.client("camera", "barn-2"), "homeassistant/sensor/barn-2/mood/config"]  # fmt: skip
    foreign = [TOPICS.want("barn-1"), TOPICS.state("barn-1"), TOPICS.report("barn-1"), TOPICS.reply("barn-1"),
               TOPICS.call("barn-1"), TOPICS.call("barn-2"), TOPICS.chunk("0" * 64),
               TOPICS.infer("barn-1", "mood", "client"), TOPICS.infer("barn-1", "mood", "barn-2"),
               TOPICS.infer("barn-2", "mood", "client"), TOPICS.answer("barn-1", "mood"),
               TOPICS.client("camera", "barn-1"), "homeassistant/sensor/barn-1/mood/config",
               TOPICS.record("barn-1"), TOPICS.record("barn-2"), TOPICS.site("barn"),
               TOPICS.trust("fleet", "metadata/timestamp.json"), TOPICS.renew("barn-1"),
               TOPICS.certificate("barn-1"), TOPICS.certificate("barn-2")]  # fmt: skip
    refused = {topic: client.publish(topic) for topic in own + foreign}
    client.close()
    assert [topic for topic in own if refused[topic]] == []
    assert [topic for topic in foreign if not refused[topic]] == []


def test_device_receives_no_messages_of_others(broker):
    """It hears chunks and signed files; what others want and report stays unheard, though SUBSCRIBE is granted."""
    listener, origin = Client(broker, "barn-2"), Client(broker, "origin")
    listener.subscribe("#")
    foreign = [TOPICS.want("barn-1"), TOPICS.report("barn-1"), TOPICS.call("barn-1"), TOPICS.reply("barn-1"),
               TOPICS.infer("barn-1", "mood", "client"), TOPICS.client("camera", "barn-2"),
               TOPICS.record("barn-1"), TOPICS.site("barn"),
               TOPICS.renew("barn-1"), TOPICS.certificate("barn-1")]  # fmt: skip
    common = [
        TOPICS.certificate("barn-2"),
        TOPICS.chunk("1" * 64),
        TOPICS.trust("fleet", "metadata/timestamp.json"),
        TOPICS.call("barn-2"),
        TOPICS.record("barn-2"),
    ]
    for topic in foreign + common:
        assert not origin.publish(topic)
    until(lambda: set(common) <= set(listener.heard), "what is for all is heard")
    listener.close()
    origin.close()
    assert set(foreign) & set(listener.heard) == set()


def test_operator_calls_devices_only(broker):
    """It may call any device, and hears states and replies; it can announce, want and tell nothing itself."""
    operator, origin = Client(broker, "operator"), Client(broker, "origin")
    assert not operator.publish(TOPICS.call("barn-1"))
    foreign = [TOPICS.trust("fleet", "metadata/timestamp.json"), TOPICS.chunk("0" * 64), TOPICS.want("barn-1"),
               TOPICS.state("barn-1"), TOPICS.reply("barn-1")]  # fmt: skip
    assert [topic for topic in foreign if not operator.publish(topic)] == []
    operator.subscribe("#")
    heard = [TOPICS.state("barn-1"), TOPICS.reply("barn-1")]
    unheard = [TOPICS.want("barn-1"), TOPICS.report("barn-1"), TOPICS.chunk("0" * 64),
               TOPICS.record("barn-1"), TOPICS.site("barn"),
               TOPICS.trust("fleet", "metadata/timestamp.json")]  # fmt: skip
    for topic in unheard + heard:
        assert not origin.publish(topic)
    until(lambda: set(heard) <= set(operator.heard), "states and replies are heard")
    operator.close()
    origin.close()
    assert set(unheard) & set(operator.heard) == set()


def test_client_receives_its_own_answers_only(broker):
    """It can neither ask as another, nor call, nor answer; it hears no other, and no weights."""
    client, origin = Client(broker, "client"), Client(broker, "origin")
    assert not client.publish(TOPICS.infer("barn-1", "mood", "client"))
    foreign = [TOPICS.infer("barn-1", "mood", "camera"), TOPICS.infer("barn-1", "mood", "barn-1"),
               TOPICS.call("barn-1"), TOPICS.answer("barn-1", "mood"), TOPICS.client("client", "barn-1"),
               TOPICS.want("barn-1")]  # fmt: skip
    assert [topic for topic in foreign if not client.publish(topic)] == []
    client.subscribe("#")
    heard = TOPICS.client("client", "barn-1")
    unheard = [TOPICS.client("camera", "barn-1"), TOPICS.answer("barn-1", "mood"), TOPICS.state("barn-1"),
               TOPICS.infer("barn-1", "mood", "client"), TOPICS.chunk("0" * 64), TOPICS.wave("0" * 32),
               TOPICS.record("barn-1"), TOPICS.site("barn"),
               TOPICS.trust("fleet", "metadata/timestamp.json")]  # fmt: skip
    for topic in [*unheard, heard]:
        assert not origin.publish(topic)
    until(lambda: heard in client.heard, "its own answers are heard")
    client.close()
    origin.close()
    assert set(unheard) & set(client.heard) == set()


def heard_by(broker, user, topics):
    """Which of the topics a user hears, when the origin writes to all of them and last to one that it does hear."""
    listener, origin = Client(broker, user), Client(broker, "origin")
    listener.subscribe("#")
    for topic in topics:
        assert not origin.publish(topic)
    until(lambda: topics[-1] in listener.heard, "the last one is heard")
    listener.close()
    origin.close()
    return {*topics} & {*listener.heard}


def test_relay_passes_on_messages_of_its_site_only(broker):
    """Beside a device's rights it writes its batch and replies, and reads calls; no state and no want of another."""
    relay = Client(broker, "relay-1")
    own = [TOPICS.relay("relay-1"), TOPICS.reply("barn-1"), TOPICS.state("relay-1")]
    foreign = [TOPICS.relay("barn-1"), TOPICS.state("barn-1"), TOPICS.want("barn-1"), TOPICS.report("barn-1"),
               TOPICS.renew("barn-1"), TOPICS.call("barn-1"), TOPICS.chunk("0" * 64), TOPICS.site("barn"),
               TOPICS.record("relay-1")]  # fmt: skip
    refused = {topic: relay.publish(topic) for topic in own + foreign}
    relay.close()
    assert {topic for topic in refused if refused[topic]} == set(foreign)
    unheard = [TOPICS.relay("relay-1"), TOPICS.report("barn-1"), TOPICS.certificate("barn-1"), TOPICS.record("barn-1")]
    heard = [TOPICS.chunk("1" * 64), TOPICS.site("barn"), TOPICS.record("relay-1"), TOPICS.call("barn-1")]
    assert heard_by(broker, "relay-1", unheard + heard) == set(heard)


def test_reports_of_thousands_wait_for_a_host_that_is_away(broker):
    """Mosquitto's default would drop four of five, without a word to the devices."""
    kept = Properties(PacketTypes.CONNECT)
    kept.SessionExpiryInterval = 60
    host = Client(broker, "origin", clean_start=False, properties=kept)
    host.subscribe(TOPICS.report("+"))
    host.close()
    device = Client(broker, "barn-1")
    assert device.publish_many(TOPICS.report("barn-1"), 5000)
    device.close()
    host = Client(broker, "origin", clean_start=False, properties=kept)
    until(lambda: len(host.heard) == 5000, "all have come")
    host.close()
    Client(broker, "origin", clean_start=True).close()


def test_home_assistant_reads_sensors_and_asks_under_its_name(broker):
    """It hears discovery, states and answers; no weights and no signed files, and nothing else is written."""
    home = Client(broker, "home")
    assert not home.publish(TOPICS.infer("barn-1", "mood", "home"))
    foreign = [TOPICS.infer("barn-1", "mood", "client"), TOPICS.call("barn-1"), TOPICS.answer("barn-1", "mood"),
               "homeassistant/sensor/barn-1/mood/config"]  # fmt: skip
    assert [topic for topic in foreign if not home.publish(topic)] == []
    home.close()
    unheard = [TOPICS.chunk("0" * 64), TOPICS.trust("fleet", "metadata/timestamp.json"), TOPICS.report("barn-1")]
    heard = [TOPICS.state("barn-1"), TOPICS.answer("barn-1", "mood")]
    assert heard_by(broker, "home", unheard + heard) == set(heard)


def test_a_stream_and_its_cancellation_need_no_further_right(broker, tmp_path):
    """A client hears the parts of its answer, and ends it on the topic of its requests."""
    ca = broker.folder / "ca.crt"
    ask, own = TOPICS.infer("barn-1", "writer", "client"), TOPICS.client("client", "barn-1")
    make = partial(task_models.bundle, task="text-generation", name="writer", slowly=True)
    made = unpacked(tmp_path, make)

    async def streamed(client):
        request = {"prompt": "water boils", "max_new_tokens": 500, "stream": True, "id": 1, "reply_to": own}
        await client.subscribe(own)
        await client.publish(ask, json.dumps(request))
        said = []
        async for message in client.messages:
            said.append(json.loads(message.payload))
            if len(said) == 3:  # each has a word at least, and all words of a moment
                await client.publish(ask, json.dumps({"cancel": True, "id": 1}))
            if "error" in said[-1]:
                break
        return said

    async def main():
        settings = as_user(broker, "barn-1")
        device = DeviceSettings(id="barn-1", fleet="edge", labels={})
        models, link = Models(), MqttLink(settings, device, itertools.count(1).__next__)
        await models.activate("writer", *made)
        inference = MqttInference(link.open_requests(), models)
        running = [asyncio.create_task(it.run()) for it in (link, inference)]
        await until_async(lambda: link.is_online, "the device is online")
        tls = ssl.create_default_context(cafile=ca)
        tls.load_cert_chain(broker.folder / "client.pem")
        async with asyncio.timeout(TIMEOUT_S), aiomqtt.Client("127.0.0.1", broker.port, tls_context=tls) as client:
            said = await streamed(client)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await models.close()
        return said

    *parts, last = asyncio.run(main())
    assert "".join(it["text"] for it in (*parts, last)).split()[:3] == ["at", "a", "lower"]
    assert last["error"]["code"] == "client-left"


def test_connection_without_a_password_is_refused(password_broker):
    """An unknown user, a wrong password and no user at all are refused."""
    code = (
        "import sys, asyncio, aiomqtt\n"
        "async def main():\n"
        "    context = __import__('ssl').create_default_context(cafile=sys.argv[2])\n"
        "    async with aiomqtt.Client('127.0.0.1', int(sys.argv[1]), username=sys.argv[3] or None,\n"
        "                              password='wrong', tls_context=context): pass\n"
        "asyncio.run(main())"
    )
    for user in ("stranger", "origin", ""):
        command = [sys.executable, "-c", code, str(password_broker.port), str(password_broker.folder / "ca.crt"), user]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert "MqttCon" in done.stderr, done.stderr
        assert "uthor" in done.stderr, done.stderr

"""A fleet with certificates, unmodified, on Mosquitto and RabbitMQ: enrolled, rolled out to, revoked, attacked."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from edgeml.fleet.fleet import Fleet
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan
from edgeml.repository import Repository, client_certificates, layout
from edgeml.repository.certificates import Role
from edgeml_agent.commands import enroll
from edgeml_core.messages import Topics
from support import certified_brokers, paho_clients, scale
from support.ports import free_port
from support.programs import Programs, agent_command, host_command, listen_at, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

FLEET, MODEL = "farm", "tiny"
TOPICS = Topics(FLEET)
DEVICES = ("barn-1", "barn-2")
USERS: dict[str, Role] = dict.fromkeys(DEVICES, "device") | {"origin": "host", "camera": "client"}
#: Seconds in which a message that isn't forbidden comes back, where none may come.
ECHO_S = 2.0
SOAK_S = 0.2
#: Seconds between two looks at the registry.
LOOK_S = 0.1

BROKERS: dict[str, Callable[..., AbstractContextManager[None]]] = {
    "Mosquitto": certified_brokers.mosquitto,
    "RabbitMQ": certified_brokers.rabbitmq,
}
BY_NIGHT = ("RabbitMQ",)


@dataclass
class Site:
    """A broker, a repository and a host that enrolls devices."""

    folder: Path
    repository: Repository
    port: int
    programs: Programs
    enroll_url: str

    @property
    def log(self) -> str:
        """What the host has written."""
        return (self.folder / "host.log").read_text()

    def agent(self, name: str) -> Path:
        """Enroll a device with a token, and start its agent; the folder that it has."""
        token = self.repository.make_tokens().tokens[0]
        enroll.enroll(self.enroll_url, token, self.folder / name, device=name)
        config = listen_at(self.folder / name / "agent.toml")
        self.programs.start(self.folder / f"{name}.log", *agent_command(config))
        return config.parent

    def publish(self, version: str, *, fault: str = "none") -> None:
        """Sign a version of the model."""
        bundle = self.folder / f"{version}.edgeml"
        tiny_onnx_bundle(bundle, name=MODEL, version=version, fault=fault)
        self.repository.publish(bundle)

    def states(self) -> dict[str, int]:
        """How many devices are in which state of the newest deployment; a look every tenth of a second."""
        time.sleep(LOOK_S)
        return Fleet(self.repository).status().deployments[-1].states

    def rolled_out(self, version: str, *, fault: str = "none") -> Phase:
        """Publish a version, deploy it in two waves, and return how that has ended."""
        self.publish(version, fault=fault)
        fleet = Fleet(self.repository)
        begun = fleet.roll_out(MODEL, version, plan=Plan(waves=(50, 100), soak_s=SOAK_S))

        def has_ended() -> bool:
            time.sleep(LOOK_S)
            return fleet.rollout(begun.id)[0].phase in ENDED

        until(has_ended, f"the end of {version}")
        return fleet.rollout(begun.id)[0].phase


@contextmanager
def made(folder: Path, name: str) -> Iterator[tuple[Repository, int]]:
    """A repository, and its broker on a port."""
    repository, port = Repository.init(folder / "repo", fleet=FLEET, passphrase=""), free_port()
    with BROKERS[name](repository, port, folder / "broker", USERS):
        yield repository, port


@pytest.fixture(params=[pytest.param(it, marks=[pytest.mark.nightly] if it in BY_NIGHT else []) for it in BROKERS])
def name(request: pytest.FixtureRequest) -> str:
    """The broker's name."""
    return request.param


def test_a_fleet_is_enrolled_rolled_out_to_and_revoked(tmp_path: Path, name: str) -> None:
    """By tokens; a good version in two waves, a bad one that is taken back; and a revoked device is out."""
    with made(tmp_path, name) as (repository, port), programs() as started:
        enrollment = free_port()
        site = Site(tmp_path, repository, port, started, f"https://localhost:{enrollment}")
        url = f"mqtts://localhost:{port}"
        started.start(tmp_path / "host.log", *host_command(repository.path, url), "--enroll", f"localhost:{enrollment}")
        until(lambda: "announced" in site.log, "the host serves")
        for device in DEVICES:
            site.agent(device)
        site.publish("1.0")
        repository.deploy(MODEL, "1.0")
        until(lambda: site.states() == {"active": len(DEVICES)}, "the first version everywhere")
        assert site.rolled_out("2.0") is Phase.COMPLETED
        if scale.IS_NIGHTLY:
            assert site.rolled_out("3.0", fault="wrong golden") is Phase.ABORTED
        until(lambda: site.states() == {"active": len(DEVICES)}, "all have the good version")

        stolen, kept = DEVICES
        repository.revoke(stolen)
        until(lambda: f"ended the connection of {stolen}" in site.log, "the host has ended the connection")
        until(lambda: "disconnected" in (tmp_path / f"{stolen}.log").read_text(), "its agent has lost it")
        assert not Attacker(port, site.repository, tmp_path / stolen / "device.pem").is_in
        site.publish("4.0")
        repository.deploy(MODEL, "4.0")
        until(lambda: site.states().get("active") == 1, f"{kept} goes on")
        assert "disconnected" not in (tmp_path / f"{kept}.log").read_text()
    assert "rights are missing" not in site.log + (tmp_path / f"{kept}.log").read_text()
    assert "repaired" not in site.log


def default_id(user: str) -> str:
    """The client id of a user's program, which is the name of its session."""
    return f"edgeml-host-{FLEET}-1" if user == "origin" else f"edgeml-{FLEET}-{user}"


class Attacker:
    """A client with a certificate, and with any client id, name, session and will; a broker may end its connection."""

    def __init__(self, port: int, repository: Repository, certificate: Path, client_id: str = "", **given: object):
        self.heard: list[tuple[str, bytes]] = []
        self.is_in, self.is_gone = False, threading.Event()
        self._subscribed, self._answered = threading.Event(), threading.Event()
        client_id = client_id or default_id(certificate.stem)
        is_new = not given.get("keeps_session")
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311, clean_session=is_new,
            reconnect_on_failure=False,
        )  # fmt: skip
        context = ssl.create_default_context(cafile=repository.path / "authorities" / "broker-ca.crt")
        context.load_cert_chain(certificate)
        self._client.tls_set_context(context)
        if "claims" in given:
            self._client.username_pw_set(str(given["claims"]), "any")
        if "will" in given:
            self._client.will_set(str(given["will"]), b"will", qos=1)
        self._client.on_connect = self._connected
        self._client.on_disconnect = lambda *_: self.is_gone.set()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_publish = lambda *_: self._answered.set()
        self._client.on_message = lambda _client, _data, it: self.heard.append((it.topic, it.payload))
        try:
            self._client.connect("localhost", port)
        except OSError:
            return
        self._client.loop_start()
        until(lambda: self.is_in or self.is_gone.is_set(), "the broker answers")
        if self.is_gone.is_set():
            paho_clients.stop(self._client)

    def _connected(self, _client: object, _data: object, _flags: object, reason: object, _properties: object) -> None:
        self.is_in = not reason.is_failure

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1, and wait until the broker acknowledges it or ends the connection."""
        self._answered.clear()
        self._client.publish(topic, payload, qos=1, retain=retain)
        until(lambda: self._answered.is_set() or self.is_gone.is_set(), "the broker has dealt with it")

    def subscribe(self, topic: str) -> None:
        """Subscribe, and wait until the broker grants or refuses it, or ends the connection."""
        self._subscribed.clear()
        self._client.subscribe(topic, qos=1)
        until(lambda: self._subscribed.is_set() or self.is_gone.is_set(), "the broker has dealt with it")

    def die(self) -> None:
        """Lose the connection without a DISCONNECT."""
        paho_clients.stop(self._client)
        self._client.socket().close()

    def leave(self) -> None:
        """End."""
        paho_clients.leave(self._client)


class Attack:
    """Clients of one broker, each with a certificate of its own."""

    def __init__(self, repository: Repository, port: int, folder: Path) -> None:
        self._repository, self._port, self._folder = repository, port, folder
        opened = layout.opened(repository.path)
        with opened.locked():
            for user, role in USERS.items():
                issued = client_certificates.issue_with_key(opened, user, role, datetime.now(UTC))
                (folder / f"{user}.pem").write_bytes(issued)
            client_certificates.refresh_brokers(opened, datetime.now(UTC))

    @property
    def port(self) -> int:
        """The broker's."""
        return self._port

    def revoke(self, user: str) -> None:
        """Revoke a user's certificates."""
        opened = layout.opened(self._repository.path)
        with opened.locked():
            client_certificates.revoke_certificate(opened, user, datetime.now(UTC))

    def context(self, user: str, version: ssl.TLSVersion) -> ssl.SSLContext:
        """What a user's TLS connections share."""
        context = ssl.create_default_context(cafile=self._repository.path / "authorities" / "broker-ca.crt")
        context.load_cert_chain(self._folder / f"{user}.pem")
        context.minimum_version = context.maximum_version = version
        return context

    def connect(self, user: str, client_id: str = "", **given: object) -> Attacker:
        """Connect with the certificate of a user."""
        return Attacker(self._port, self._repository, self._folder / f"{user}.pem", client_id, **given)


@pytest.fixture
def attack(tmp_path: Path, name: str) -> Iterator[Attack]:
    """A broker without a host."""
    with made(tmp_path, name) as (repository, port):
        yield Attack(repository, port, tmp_path)


def of_others(topics: Topics) -> tuple[list[str], list[str]]:
    """What `barn-2` may neither write nor read."""
    both = [topics.want("barn-1"), topics.state("barn-1"), topics.report("barn-1"), topics.reply("barn-1"),
            topics.answer("barn-1", MODEL), topics.client("camera", "barn-1"), topics.renew("barn-1"),
            topics.certificate("barn-1"), topics.record("barn-1"), topics.site("farm-7"), topics.call("barn-1"),
            topics.infer("barn-1", MODEL, "camera"), topics.relay("barn-1")]  # fmt: skip
    writes = [topics.chunk("0" * 32), topics.trust("fleet", "metadata/timestamp"), topics.wave("0" * 32),
              topics.record("barn-2"), topics.certificate("barn-2"), topics.call("barn-2")]  # fmt: skip
    return both + writes, [*both, topics.client("camera", "barn-2")]


def test_one_device_reaches_no_topic_of_another(attack: Attack) -> None:
    """Each denial by echo: the owner of all rights hears no message of the device, and the device none of others."""
    writes, reads = of_others(TOPICS)
    host = attack.connect("origin")
    host.subscribe(f"{TOPICS.root}/#")
    for topic in writes:
        # RabbitMQ ends the connection of a client that publishes where it may not.
        device = attack.connect("barn-2")
        device.publish(topic, b"attack")
        device.leave()
    attack.connect("barn-2", will=TOPICS.state("barn-1")).die()
    device = attack.connect("barn-2")
    device.publish(TOPICS.report("barn-2"), b"own")
    until(lambda: (TOPICS.report("barn-2"), b"own") in host.heard, "the device's own message")
    time.sleep(ECHO_S)
    assert [it for it in host.heard if it[1] != b"own"] == []
    device.leave()

    listeners = []
    for topic in (*reads, f"{TOPICS.root}/#", "#", f"{TOPICS.root}/device/+/report", f"{TOPICS.root}/record/+"):
        listeners.append(attack.connect("barn-2"))
        listeners[-1].subscribe(topic)
        for it in reads:
            host.publish(it, b"secret", retain=True)
        assert listeners[-1].heard == [], topic
        listeners[-1].leave()
    device = attack.connect("barn-2")
    device.subscribe(TOPICS.call("barn-2"))
    host.publish(TOPICS.call("barn-2"), b"own")
    until(lambda: device.heard, "its own call")
    host.leave()
    device.leave()


def test_one_device_takes_no_messages_that_wait_for_another(attack: Attack) -> None:
    """With the client id of the host or of a neighbour it gets neither their sessions nor what lies in them."""
    for victim, client_id, topic in (
        ("origin", default_id("origin"), TOPICS.report("barn-1")),
        ("barn-1", default_id("barn-1"), TOPICS.call("barn-1")),
    ):
        owner = attack.connect(victim, client_id, keeps_session=True)
        owner.subscribe(topic)
        owner.leave()
        sender = attack.connect("barn-1" if victim == "origin" else "origin")
        sender.publish(topic, b"waiting")
        thief = attack.connect("barn-2", client_id, keeps_session=True)
        if thief.is_in:
            thief.subscribe(TOPICS.call("barn-2"))
        time.sleep(ECHO_S)
        assert thief.heard == [], victim
        thief.leave()
        owner = attack.connect(victim, client_id, keeps_session=True)
        until(lambda it=owner, topic=topic: (topic, b"waiting") in it.heard, f"{victim} has what waited for it")
        owner.leave()
        sender.leave()


def test_another_name_at_connect_gives_no_rights(attack: Attack) -> None:
    """The certificate's name counts, or the broker refuses the client."""
    device = attack.connect("barn-2", claims="origin")
    host = attack.connect("origin")
    host.subscribe(TOPICS.chunk("0" * 32))
    if device.is_in:
        device.publish(TOPICS.chunk("0" * 32), b"attack")
    time.sleep(ECHO_S)
    assert host.heard == []
    host.leave()


def test_client_id_of_another_ends_its_connection_on_rabbitmq_alone(attack: Attack, name: str) -> None:
    """Mosquitto gives the attacker its own; RabbitMQ 3.10 has no such rule, as docs/compatibility.md says."""
    victim = attack.connect("barn-1")
    victim.subscribe(TOPICS.call("barn-1"))
    thief = attack.connect("barn-2", default_id("barn-1"))
    thief.subscribe(TOPICS.call("barn-2"))
    if name == "RabbitMQ":
        until(victim.is_gone.is_set, "the owner's connection has ended")
        victim = attack.connect("barn-1")
        victim.subscribe(TOPICS.call("barn-1"))
    host = attack.connect("origin")
    host.publish(TOPICS.call("barn-1"), b"call")
    until(lambda: victim.heard, "the owner hears its call")
    assert thief.heard == []
    for it in (victim, thief, host):
        it.leave()


#: CONNECT of MQTT 3.1.1 with a clean session and the client id of `barn-2`, and the length of a CONNACK.
_ID = default_id("barn-2").encode()
CONNECT = bytes([0x10, 12 + len(_ID)]) + b"\0\4MQTT\4\2\0\x3c" + bytes([0, len(_ID)]) + _ID
CONNACK_BYTES = 4


def resumable(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, ssl.SSLSession | None]:
    """Connect with an earlier TLS session; the answer, empty when the broker refuses, and its next session."""
    with socket.create_connection(("localhost", port), TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as secure:
                secure.sendall(CONNECT)
                return secure.recv(CONNACK_BYTES), secure.session
        except OSError:
            return b"", None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda it: it.name)
def test_revoked_device_resumes_no_tls_session(attack: Attack, version: ssl.TLSVersion) -> None:
    """A resumed session has no certificate to look up: the list of revoked ones must count there, too."""
    context = attack.context("barn-2", version)
    answer, session = resumable(attack.port, context, None)
    assert answer[:1] == b"\x20"
    attack.revoke("barn-2")
    time.sleep(1.5)
    assert resumable(attack.port, attack.context("barn-2", version), None)[0] == b""
    assert resumable(attack.port, context, session)[0] == b""

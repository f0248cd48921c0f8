"""Certificates of devices with a real Mosquitto that the host runs: enrolled by token, renewed, revoked."""

import asyncio
import itertools
import json
import os
import ssl
import time
from datetime import UTC, datetime, timedelta

import aiomqtt
import msgspec
import pytest
from tests.integration.test_serving import unpacked

from edgeml.cli.main import run
from edgeml.repository import Repository, client_certificates, layout, tokens
from edgeml_agent import settings
from edgeml_agent.commands import doctor, enroll
from edgeml_agent.link import renewal
from edgeml_agent.link.certificate import DeviceCertificate
from edgeml_agent.link.link import MqttLink
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_agent.serve.models import Models
from edgeml_core.errors import EdgemlError
from edgeml_core.messages import Topics
from edgeml_io import echo_check
from support.own_site import CertifiedClient, own_site
from support.waiting import TIMEOUT_S, until, until_async

TOPICS = Topics("edge")
NOT_AUTHORIZED = 135
#: Seconds until a revoked device is out.
OUT_S = 10.0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A host with its own broker."""
    with own_site(tmp_path_factory.mktemp("own") / "repo") as running:
        yield running


def token(site, **options):
    """One token."""
    return site.repository.make_tokens(**options).tokens[0]


def typed(site, *words):
    """Type a command of `edgeml device`."""
    with pytest.raises(SystemExit) as ended:
        run(["device", *words, "--repo", str(site.repository.path)])
    assert not ended.value.code


def refused(call):
    """The code of the error that a call raises."""
    with pytest.raises(EdgemlError) as caught:
        call()
    return caught.value.code


def test_device_that_enrolls_by_token_connects_with_a_key_that_it_made(site, tmp_path, monkeypatch):
    """Its labels are signed, the files are its own, and the broker accepts it for its own topics."""
    out = tmp_path / "barn-1"
    done = enroll.enroll(site.url, token(site, labels={"site": "farm-7"}, groups=["clinic"]), out, device="barn-1")
    assert (done.device, done.kept) == ("barn-1", False)
    assert site.folder.labels()["barn-1"] == {"site": "farm-7"}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "agent.toml", "device.pem", "broker-ca.pem", "trust/releases.root.json", "trust/fleet.root.json",
        "trust/record.json", "groups/clinic.key"}  # fmt: skip
    assert {path.stat().st_mode & 0o077 for path in out.rglob("*")} == {0}
    found = settings.load(out / "agent.toml", {})
    assert next(doctor.broker(found.broker, found.device, requests=True)).status == "ok"
    other = msgspec.structs.replace(found.device, id="barn-2")
    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", 0.5)
    assert next(doctor.broker(found.broker, other)).status == "failed"


def test_token_works_once_and_until_its_time(site, tmp_path, monkeypatch):
    """Refused by name: used by another key or device, too late, of another host, or bound to another device."""
    used = token(site)
    enroll.enroll(site.url, used, tmp_path / "shed-1", device="shed-1")
    assert refused(lambda: enroll.enroll(site.url, used, tmp_path / "shed-2", device="shed-2")) == "token-used"
    assert refused(lambda: enroll.enroll(site.url, used, tmp_path / "again", device="shed-1")) == "token-used"
    folder, past = site.folder, datetime.now(UTC) - timedelta(days=8)
    with folder.locked():
        late = tokens.make(folder, now=past, labels={}).tokens[0]
    assert refused(lambda: enroll.enroll(site.url, late, tmp_path / "shed-3", device="shed-3")) == "token-expired"
    bound = token(site, device="shed-4")
    assert refused(lambda: enroll.enroll(site.url, bound, tmp_path / "shed-5", device="shed-5")) == "token-unknown"
    foreign = Repository.init(tmp_path / "foreign", passphrase="").make_tokens().tokens[0]
    assert refused(lambda: enroll.enroll(site.url, foreign, tmp_path / "shed-6", device="shed-6")) == "host-refused"
    assert set(site.folder.labels()) & {f"shed-{n}" for n in range(2, 7)} == set()
    taken = token(site)
    assert refused(lambda: enroll.enroll(site.url, taken, tmp_path / "b", device="shed-1")) == "device-exists"
    assert refused(lambda: enroll.enroll(site.url, taken, tmp_path / "b", device="operator")) == "usage"
    enroll.enroll(site.url, taken, tmp_path / "shed-7", device="shed-7")


def test_lost_answer_is_repeated_for_the_same_key(site, tmp_path, monkeypatch):
    """The host has enrolled the device, which has heard nothing; it asks again, and is whole."""
    once, out, write = token(site), tmp_path / "loft-1", enroll._write

    def cut(*given, **options):
        raise OSError("power cut")

    monkeypatch.setattr(enroll, "_write", cut)
    assert refused(lambda: enroll.enroll(site.url, once, out, device="loft-1")) == "store-failed"
    assert [path.name for path in out.iterdir()] == [enroll.PENDING_KEY_FILE]
    monkeypatch.setattr(enroll, "_write", write)
    enroll.enroll(site.url, once, out, device="loft-1")
    found = settings.load(out / "agent.toml", {})
    assert next(doctor.broker(found.broker, found.device)).status == "ok"


def test_expired_device_comes_back_with_a_token_and_keeps_its_configuration(site, tmp_path):
    """Its certificate has ended, so it can't renew it; a token of its own gives it another one."""
    out = tmp_path / "silo-1"
    enroll.enroll(site.url, token(site), out, device="silo-1")
    ended = datetime.now(UTC) - timedelta(days=400)
    site.certify("silo-1", "device", out / "device.pem", ended)
    (out / "agent.toml").write_text((out / "agent.toml").read_text() + "# edited\n")
    found = settings.load(out / "agent.toml", {})
    assert next(doctor.broker(found.broker, found.device)).status == "failed"
    done = enroll.enroll(site.url, token(site, device="silo-1"), out, device="silo-1")
    assert done.kept
    assert "# edited" in (out / "agent.toml").read_text()
    assert next(doctor.broker(found.broker, found.device)).status == "ok"


@pytest.mark.timing
def test_revoked_device_is_out_within_ten_seconds(site, tmp_path):
    """A connected one loses its rights and its connection, and gets no other; its neighbour doesn't notice."""
    for name in ("pen-1", "pen-2"):
        enroll.enroll(site.url, token(site), tmp_path / name, device=name)
    clients = [CertifiedClient(site, tmp_path / name / "device.pem") for name in ("pen-1", "pen-2")]
    try:
        until(lambda: all(it.is_up for it in clients), "both are connected")
        assert all(it.hears(TOPICS.want(name)) for it, name in zip(clients, ("pen-1", "pen-2"), strict=True))
        began_s = time.monotonic()
        typed(site, "revoke", "pen-1")
        until(lambda: clients[0].failures, "the revoked device's connection ends", OUT_S)
        until(lambda: site.seen("revoked", device="pen-1"), "the host reports it", OUT_S)
        assert time.monotonic() - began_s < OUT_S
        assert site.repository.device("pen-1").revoked
        failures = clients[0].failures
        until(lambda: clients[0].failures > failures + 1, "it tries again")
        assert not clients[0].is_up
        assert (clients[1].is_up, clients[1].failures) == (True, 0)
        assert clients[1].hears(TOPICS.report("pen-2"))
    finally:
        for it in clients:
            it.close()


def test_replaced_device_gets_in_and_its_old_board_stays_out(site, tmp_path, monkeypatch):
    """A stolen board was revoked. The new one has its id, its labels and its rights at the broker."""
    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", 0.5)
    old, new = tmp_path / "pen-4", tmp_path / "new"
    enroll.enroll(site.url, token(site, labels={"site": "farm-7"}), old, device="pen-4")
    typed(site, "revoke", "pen-4")
    until(lambda: site.seen("revoked", device="pen-4"), "the host has ended its connection")
    typed(site, "replace", "pen-4", "-o", str(new))

    def visit(folder):
        found = settings.load(folder / "agent.toml", {})
        return [(it.status, it.detail) for it in doctor.broker(found.broker, found.device)]

    def has_rights_and_record():
        (status, _), *others = visit(new)
        return status == "ok" and ("ok", "version 3 with site=farm-7") in others

    until(has_rights_and_record, "it has its rights, and reads its new record")
    assert visit(old)[0][0] == "failed"


def test_device_that_was_revoked_comes_back_with_a_token_of_its_own(site, tmp_path, monkeypatch):
    """The operator has found the board again. Tokens from before the revocation count no more."""
    monkeypatch.setattr(echo_check, "ECHO_WAIT_S", 0.5)
    out, early = tmp_path / "pen-5", token(site, device="pen-5")
    enroll.enroll(site.url, token(site), out, device="pen-5")
    typed(site, "revoke", "pen-5")
    assert refused(lambda: enroll.enroll(site.url, early, out, device="pen-5")) == "token-unknown"
    until(lambda: site.seen("revoked", device="pen-5"), "the host has ended its connection")
    enroll.enroll(site.url, token(site, device="pen-5"), out, device="pen-5")
    assert (site.repository.device("pen-5").version, site.repository.device("pen-5").revoked) == (3, False)
    found = settings.load(out / "agent.toml", {})
    until(lambda: next(doctor.broker(found.broker, found.device)).status == "ok", "it has its rights again")


def test_revoked_device_has_no_rights_even_before_its_connection_ends(site, tmp_path, monkeypatch):
    """Should the host not be able to end the connection, the access list has taken all rights."""
    monkeypatch.setattr("edgeml.fleet.credentials.Credentials._disconnect", lambda *_: asyncio.sleep(0))
    enroll.enroll(site.url, token(site), tmp_path / "pen-3", device="pen-3")
    client = CertifiedClient(site, tmp_path / "pen-3" / "device.pem")
    try:
        until(lambda: client.is_up, "connected")
        assert client.hears(TOPICS.state("pen-3"))
        folder = site.folder
        with folder.locked():
            client_certificates.revoke_certificate(folder, "pen-3", layout.utc_now())
        until(lambda: client.publish(TOPICS.state("pen-3")) == NOT_AUTHORIZED, "the rights are gone")
        assert not client.hears(TOPICS.state("pen-3"))
        assert not client.hears(TOPICS.want("pen-3"))
    finally:
        client.close()


def test_certificate_renews_under_traffic_without_a_lost_request(site, tmp_path, monkeypatch):
    """Every request is answered on the connection that goes on; the next one has the new certificate."""
    monkeypatch.setattr(renewal, "FIRST_S", 0.01)
    out = tmp_path / "mill-1"
    enroll.enroll(site.url, token(site), out, device="mill-1")
    site.certify("mill-1", "device", out / "device.pem", datetime.now(UTC) - timedelta(days=200))
    site.repository.certify_client("camera", role="client", output=tmp_path / "camera")
    found = settings.load(out / "agent.toml", os.environ)
    until(lambda: site.seen("announced", devices=len(site.folder.labels())), "the host knows the device")
    camera = CertifiedClient(site, tmp_path / "camera" / "camera.pem")
    asked = TOPICS.infer("mill-1", "line", "camera")
    until(lambda: camera.publish(asked) != NOT_AUTHORIZED, "the access list has the client")
    camera.close()

    async def main():
        models, link = Models(), MqttLink(found.broker, found.device, itertools.count(1).__next__, store=tmp_path)
        await models.activate("line", *unpacked(tmp_path))
        inference = MqttInference(link.open_requests(), models)
        running = [asyncio.create_task(it.run()) for it in (link, inference)]
        await until_async(lambda: link.is_online, "the device is online")
        answered = await traffic(site, tmp_path / "camera", lambda: site.seen("renewed", device="mill-1"))
        sessions = link.session
        await until_async((tmp_path / "certificate.pem").exists, "the certificate is stored")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await models.close()
        return answered, sessions

    (asked, answered), sessions = asyncio.run(main())
    assert answered == asked
    assert len(asked) > 100
    assert sessions == 1
    present = DeviceCertificate(found.broker, tmp_path)
    assert present.settings().cert == tmp_path / "certificate.pem"
    assert not present.is_due(present.present().certificate, datetime.now(UTC))
    assert next(doctor.broker(present.settings(), found.device)).status == "ok"


async def traffic(site, folder, is_done):
    """Ask a model again and again, from before the renewal until after it; the numbers asked and answered."""
    context = ssl.create_default_context(cafile=site.authority)
    context.load_cert_chain(folder / "camera.pem")
    asked, answered, own = [], [], TOPICS.client("camera", "mill-1")
    async with asyncio.timeout(TIMEOUT_S), aiomqtt.Client("localhost", site.port, tls_context=context) as client:
        await client.subscribe(own)

        async def ask():
            for number in itertools.count():
                request = {"inputs": [[1.0]], "id": number, "reply_to": own}
                asked.append(number)
                await client.publish(TOPICS.infer("mill-1", "line", "camera"), json.dumps(request))
                await asyncio.sleep(0.005)
                if is_done() and number > 300:
                    return

        async def listen():
            async for message in client.messages:
                answered.append(json.loads(message.payload)["id"])  # noqa: PERF401 - they are counted meanwhile

        listening = asyncio.create_task(listen())
        await ask()
        await until_async(lambda: len(answered) >= len(asked), "all are answered")
        listening.cancel()
    return asked, answered

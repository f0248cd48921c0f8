"""Renewals on the host: to whom a next certificate is given, and how often."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgeml.fleet import credentials
from edgeml.fleet.credentials import Credentials
from edgeml.fleet.link import Broker
from edgeml.repository import Repository, RepositoryFolder, client_certificates, layout
from edgeml_agent.commands import doctor
from edgeml_agent.link.certificate import DeviceCertificate, Pair
from edgeml_agent.settings import BrokerSettings
from edgeml_core import broker as broker_urls
from edgeml_core.enrollment import RenewAnswer, RenewRequest
from edgeml_core.errors import RejectedError
from support.waiting import until_async

NOW = datetime.now(UTC)
DUE = NOW + timedelta(days=200)


@pytest.fixture
def folder(tmp_path: Path) -> RepositoryFolder:
    return layout.opened(Repository.init(tmp_path / "repo", passphrase="").path)


def device(folder: RepositoryFolder, tmp_path: Path, name: str = "barn-1") -> tuple[DeviceCertificate, Pair]:
    """A device's files, and its present certificate."""
    with folder.locked():
        pem = client_certificates.issue_with_key(folder, name, "device", NOW)
    (tmp_path / f"{name}.pem").write_bytes(pem)
    url = broker_urls.parse("mqtts://localhost")
    made = DeviceCertificate(BrokerSettings(url=url, cert=tmp_path / f"{name}.pem"), tmp_path)
    return made, made.present()


def asked(made: DeviceCertificate, present: Pair) -> RenewRequest:
    """A device's request."""
    return made.request(present)[1]


def code(folder: RepositoryFolder, name: str, request: RenewRequest, now: datetime) -> str:
    """The code with which a request is refused."""
    with pytest.raises(RejectedError) as caught:
        client_certificates.renew(folder, name, msgspec.json.encode(request), now)
    return caught.value.code


def test_due_certificate_gets_a_successor_for_the_new_key(folder, tmp_path):
    """Same name and role, later end; both are valid meanwhile, and both are known."""
    made, present = device(folder, tmp_path)
    key, request = made.request(present)
    issued = client_certificates.renew(folder, "barn-1", msgspec.json.encode(request), DUE).decode()
    successor = x509.load_pem_x509_certificate(issued.encode())
    assert successor.public_key() == key.public_key() != present.key.public_key()
    assert successor.subject == present.certificate.subject
    assert [it.serial for it in folder.enrollments.certificates("barn-1")] == [
        present.certificate.serial_number, successor.serial_number]  # fmt: skip
    made.check(present, key, issued)
    made.accept()
    assert made.settings().cert == tmp_path / "certificate.pem"
    assert made.present().certificate == successor


def test_requests_of_others_are_refused(folder, tmp_path):
    """Early, too late, on another device's topic, with another's signature or certificate, of another fleet."""
    made, present = device(folder, tmp_path)
    other, others = device(folder, tmp_path, "barn-2")
    request = asked(made, present)
    assert code(folder, "barn-1", request, NOW + timedelta(days=100)) == "certificate-invalid"
    assert code(folder, "barn-1", request, NOW + timedelta(days=366)) == "certificate-invalid"
    assert code(folder, "barn-2", request, DUE) == "certificate-invalid"
    forged = msgspec.structs.replace(request, signature=asked(other, others).signature)
    assert code(folder, "barn-1", forged, DUE) == "certificate-invalid"
    stolen = msgspec.structs.replace(request, csr=asked(other, others).csr)
    assert code(folder, "barn-1", stolen, DUE) == "certificate-invalid"
    fleet = layout.opened(Repository.init(tmp_path / "other", passphrase="").path)
    (tmp_path / "theirs").mkdir()
    assert code(folder, "barn-1", asked(*device(fleet, tmp_path / "theirs")), DUE) == "certificate-invalid"
    assert code(folder, "barn-1", msgspec.structs.replace(request, csr="none"), DUE) == "document-format"
    assert len(folder.enrollments.certificates("barn-1")) == 1


#: A P-256 key and a version as DER has them, and others that cryptography can't read.
STRANGE = {
    "key": (b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x09"),
    "curve": (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x55"),
    "request's version": (b"\x02\x01\x00", b"\x02\x01\x05"),
    "certificate's version": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"),
}


@pytest.mark.parametrize("part", STRANGE)
def test_strange_request_is_refused_and_the_host_serves_on(folder, tmp_path, part):
    """One device's message would end the host for all: none of these errors is a ValueError."""
    request = asked(*device(folder, tmp_path))
    changed = {name: altered(getattr(request, name), *STRANGE[part]) for name in ("csr", "certificate")}
    request = msgspec.structs.replace(request, **changed)
    made = Credentials(folder, SimpleNamespace(event=lambda *_, **__: None))
    answers = []

    async def publish(_: str, payload: bytes) -> None:
        answers.append(msgspec.json.decode(payload, type=RenewAnswer))

    async def answer() -> None:
        made.put("barn-1", msgspec.json.encode(request))
        answering = asyncio.create_task(made.answer(publish))
        await until_async(lambda: answers or answering.done())
        assert not answering.done(), answering
        answering.cancel()

    asyncio.run(answer())
    assert answers[0].code in {"document-format", "certificate-invalid"}


def altered(pem: str, old: bytes, new: bytes) -> str:
    """Replace bytes in the DER of a PEM."""
    first, *lines, last = pem.strip().splitlines()
    der = base64.b64decode("".join(lines)).replace(old, new, 1)
    return "\n".join((first, *base64.encodebytes(der).decode().split(), last))


def test_revoked_certificate_is_not_renewed(folder, tmp_path):
    """Nor one that the repository has no record of."""
    made, present = device(folder, tmp_path)
    request = asked(made, present)
    with folder.locked():
        client_certificates.revoke_certificate(folder, "barn-1", NOW)
    assert code(folder, "barn-1", request, DUE) == "certificate-revoked"
    (folder.folder / "enrollment.db").unlink()
    assert code(folder, "barn-1", request, DUE) == "certificate-revoked"


def test_stolen_board_renews_nothing_after_it_was_replaced(folder, tmp_path):
    """The id is in use again, with another certificate; the old one's key asks before and after the new one renews."""
    made, stolen = device(folder, tmp_path)
    theft = asked(made, stolen)
    with folder.locked():
        client_certificates.revoke_certificate(folder, "barn-1", NOW)
    replaced, new = device(folder, tmp_path)
    assert new.certificate.subject == stolen.certificate.subject
    assert code(folder, "barn-1", theft, DUE) == "certificate-revoked"
    request = msgspec.json.encode(asked(replaced, new))
    client_certificates.renew(folder, "barn-1", request, DUE)
    assert code(folder, "barn-1", theft, DUE) == "certificate-revoked"
    mixed = msgspec.structs.replace(asked(replaced, new), csr=theft.csr, signature=theft.signature)
    assert code(folder, "barn-1", mixed, DUE) == "certificate-invalid"


def test_device_checks_the_answer(folder, tmp_path):
    """Another device's certificate, one for another key, and the present one replace nothing."""
    made, present = device(folder, tmp_path)
    other, others = device(folder, tmp_path, "barn-2")
    key, request = made.request(present)
    pem = client_certificates.renew(folder, "barn-1", msgspec.json.encode(request), DUE).decode()
    theirs = client_certificates.renew(folder, "barn-2", msgspec.json.encode(asked(other, others)), DUE).decode()
    own_key = ec.generate_private_key(ec.SECP256R1())
    present_pem = (tmp_path / "barn-1.pem").read_text()
    for with_key, answer in ((own_key, pem), (key, theirs), (present.key, present_pem), (key, "no certificate")):
        with pytest.raises(RejectedError) as caught:
            made.check(present, with_key, answer)
        assert caught.value.code == "certificate-invalid"
    assert made.settings().cert == tmp_path / "barn-1.pem"


def test_certificate_of_a_new_enrollment_counts_more_than_an_earlier_renewal(folder, tmp_path):
    """The one that ends later; damaged files in the store are left out."""
    made, present = device(folder, tmp_path)
    key, request = made.request(present)
    made.check(present, key, client_certificates.renew(folder, "barn-1", msgspec.json.encode(request), DUE).decode())
    made.accept()
    assert made.settings().cert == tmp_path / "certificate.pem"
    with folder.locked():
        later = client_certificates.issue_with_key(folder, "barn-1", "device", DUE + timedelta(days=1))
    (tmp_path / "barn-1.pem").write_bytes(later)
    assert made.settings().cert == tmp_path / "barn-1.pem"
    (tmp_path / "certificate.pem").write_text("damaged")
    assert made.settings().cert == tmp_path / "barn-1.pem"


def test_doctor_reports_a_certificate_that_is_due_or_has_expired(folder, tmp_path):
    """With the way back; a certificate of another maker is that maker's business."""
    made, present = device(folder, tmp_path)
    ends = present.certificate.not_valid_after_utc
    assert doctor.certificate(made, NOW).status == "ok"
    assert doctor.certificate(made, DUE).status == "warning"
    expired = doctor.certificate(made, ends + timedelta(seconds=1))
    assert (expired.status, "edgeml-agent enroll" in expired.remedy) == ("failed", True)
    (tmp_path / "barn-1.pem").write_text("another")
    assert doctor.certificate(made, NOW).status == "ok"


class Events:
    """Keeps events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, text: str, **fields: object) -> None:
        """Keep one."""
        self.names.append(name)


def test_device_that_floods_gets_one_answer_a_minute(folder, tmp_path, monkeypatch):
    """The others get theirs; refusals go to the device, too."""
    events, answers, clock = Events(), [], [0.0]
    monkeypatch.setattr(credentials, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    queue = Credentials(folder, events)

    async def publish(name: str, payload: bytes) -> None:
        answers.append((name, msgspec.json.decode(payload, type=RenewAnswer).code))

    async def main() -> None:
        task = asyncio.create_task(queue.answer(publish))
        for _ in range(2 * credentials.QUEUE_MAX):
            queue.put("barn-1", b"flood")
        queue.put("barn-2", b"{}")
        clock[0] = credentials.DEVICE_EVERY_S
        queue.put("barn-1", b"flood")
        await until_async(lambda: len(answers) == 3, "three answers")
        task.cancel()

    asyncio.run(main())
    assert answers == [(name, "document-format") for name in ("barn-1", "barn-2", "barn-1")]
    assert events.names == ["renew-refused"] * 3


def test_connection_ends_after_the_brokers_have_the_list(folder, tmp_path, monkeypatch):
    """A device whose connection ended before would connect again, and nobody would end that connection."""
    device(folder, tmp_path)
    monkeypatch.setattr(credentials, "REVOKED_EVERY_S", 0.01)
    events = Events()

    async def main() -> None:
        serving = Broker(url=broker_urls.parse("mqtt://localhost"))
        task = asyncio.create_task(Credentials(folder, events).run(serving))
        with folder.locked():  # as the command does, until it has written the list
            folder.enrollments.revoke("barn-1")
            await asyncio.sleep(0.3)
            assert events.names == []
        await until_async(lambda: events.names == ["revoked"])
        task.cancel()

    asyncio.run(main())


def test_host_tells_of_a_brokers_folder_that_it_cant_read(folder, tmp_path):
    """Once an hour: that broker's certificate expires, and nothing else tells."""
    Repository.open(folder.folder).configure_broker(tmp_path / "broker", "localhost")
    (tmp_path / "broker").rename(tmp_path / "elsewhere")
    device(folder, tmp_path)
    events = Events()

    async def main() -> None:
        with_certificate = Broker(url=broker_urls.parse("mqtts://localhost"), cert=tmp_path / "barn-1.pem")
        task = asyncio.create_task(Credentials(folder, events).run(with_certificate))
        await until_async(lambda: events.names)
        task.cancel()

    asyncio.run(main())
    assert events.names == ["broker-folder-unreadable"]


def test_full_disk_delays_the_end_of_a_connection(folder, tmp_path, monkeypatch):
    """And doesn't end the host, which serves all others."""
    device(folder, tmp_path)
    with folder.locked():
        client_certificates.revoke_certificate(folder, "barn-1", NOW)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    events = Events()

    async def main() -> None:
        with_certificate = Broker(url=broker_urls.parse("mqtts://localhost"), cert=tmp_path / "barn-1.pem")
        task = asyncio.create_task(Credentials(folder, events).run(with_certificate))
        await until_async(lambda: events.names or task.done())
        assert (task.done(), events.names) == (False, ["revoke-failed"])
        task.cancel()

    asyncio.run(main())
    assert folder.enrollments.connected_names() == ["barn-1"]

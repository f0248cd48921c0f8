"""The broker's configuration as text and as files; `tests/integration` gives it to Mosquitto."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from edgeml import repository
from edgeml.cli.fleet import fleet
from edgeml.repository import Repository, broker_config, broker_folder, client_certificates, layout
from edgeml.repository.certificates import is_past_half
from edgeml_core.errors import UsageError
from edgeml_io.packet_limit import PACKET_MAX_BYTES


@pytest.fixture
def made(tmp_path: Path) -> Repository:
    return Repository.init(tmp_path / "repo", fleet="farm", passphrase="")


def acl(folder: Path) -> list[str]:
    return (folder / "acl").read_text().splitlines()


def lists(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / "revoked").iterdir())


def test_packets_may_be_as_long_as_those_of_edgeml():
    """A manifest of 6 to 8 MiB stopped the whole fleet."""
    assert broker_config.PACKET_MAX_BYTES == PACKET_MAX_BYTES


def test_broker_of_the_folder_is_the_default_of_devices(made: Repository, tmp_path: Path):
    """A device that is enrolled without an address gets it, a certificate, and the authority of the broker."""
    files = made.configure_broker(tmp_path / "broker", "10.0.0.2", port=8884, seen_at="/mosquitto/config")
    assert (files.url, files.conf) == ("mqtts://10.0.0.2:8884", "/mosquitto/config/mosquitto.conf")
    made.enroll("barn-1", output=tmp_path / "barn-1")
    config = (tmp_path / "barn-1" / "agent.toml").read_text()
    for line in ('url = "mqtts://10.0.0.2:8884"', 'cert = "device.pem"', 'ca = "broker-ca.pem"'):
        assert f"\n{line}\n" in config
    assert (tmp_path / "barn-1" / "device.pem").stat().st_mode & 0o777 == 0o600


def test_first_broker_stays_the_default_of_devices_until_it_is_forgotten(made: Repository, tmp_path: Path):
    """The configuration of a second one, as of a site's, moved all devices enrolled later to it."""
    made.configure_broker(tmp_path / "broker", "broker.example")
    files = made.configure_broker(tmp_path / "site", "barn.local")
    assert (files.url, files.default_url) == ("mqtts://barn.local:8883", "mqtts://broker.example:8883")
    made.enroll("barn-1", output=tmp_path / "barn-1")
    assert 'url = "mqtts://broker.example:8883"' in (tmp_path / "barn-1" / "agent.toml").read_text()
    assert made.configure_broker(tmp_path / "broker", "new.example").default_url == "mqtts://new.example:8883"
    forgotten = CliRunner().invoke(
        fleet, ["broker-config", str(tmp_path / "broker"), "--repo", str(made.path), "--forget"], catch_exceptions=False
    )
    assert forgotten.exit_code == 0
    assert layout.opened(made.path).enrollments.address("broker") == "mqtts://barn.local:8883"
    made.forget_broker(tmp_path / "site")
    with pytest.raises(UsageError, match="broker"):
        made.enroll("barn-2", output=tmp_path / "barn-2")


def test_folder_that_cant_be_read_is_told_until_it_is_forgotten(made: Repository, tmp_path: Path):
    """As in a container that doesn't mount it: the broker's certificate expired, and nothing told."""
    broker, folder = tmp_path / "broker", layout.opened(made.path)
    made.configure_broker(broker, "localhost")
    assert broker_folder.unreadable(folder) == []
    broker.rename(tmp_path / "elsewhere")
    with folder.locked():
        client_certificates.refresh_brokers(folder, layout.utc_now())
    (told,) = broker_folder.unreadable(folder)
    assert f"the broker's folder {broker} can't be read here" in told
    made.forget_broker(broker)
    assert broker_folder.unreadable(folder) == []
    with pytest.raises(UsageError, match="known are none"):
        made.forget_broker(broker)


@pytest.mark.parametrize("options", [[], ["--host", "localhost", "--forget"]])
def test_broker_config_takes_hosts_or_forgets(made: Repository, tmp_path: Path, options: list[str]):
    """Neither without a name, nor both."""
    result = CliRunner().invoke(fleet, ["broker-config", str(tmp_path / "b"), "--repo", str(made.path), *options])
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "b").exists()


def test_folder_of_another_fleets_broker_is_left_as_it_is(made: Repository, tmp_path: Path):
    """Its clients would find a broker of another authority."""
    made.configure_broker(tmp_path / "broker", "localhost")
    before = {path: path.read_bytes() for path in (tmp_path / "broker").rglob("*") if path.is_file()}
    other = Repository.init(tmp_path / "other", passphrase="")
    with pytest.raises(UsageError, match="another fleet's broker"):
        other.configure_broker(tmp_path / "broker", "localhost")
    assert {path: path.read_bytes() for path in before} == before


def test_only_the_owner_reads_the_folder(made: Repository, tmp_path: Path):
    """It holds the broker's key."""
    made.configure_broker(tmp_path / "broker", "localhost")
    assert {it.stat().st_mode & 0o077 for it in (tmp_path / "broker", *(tmp_path / "broker").rglob("*"))} == {0}


def test_revocation_adds_a_list_and_takes_all_rights(made: Repository, tmp_path: Path):
    """The next number in the folder is the one that a running broker looks for; a start needs the newest alone."""
    broker, folder = tmp_path / "broker", layout.opened(made.path)
    made.configure_broker(broker, "localhost")
    for name in ("barn-1", "barn-2"):
        made.enroll(name, output=tmp_path / name)
    assert lists(broker) == [".r0"]
    for name in ("barn-1", "barn-2"):
        with folder.locked():
            client_certificates.revoke_certificate(folder, name, layout.utc_now())
    assert lists(broker) == [".r0", ".r1", ".r2"]
    assert acl(broker).count("topic deny #") == 2
    made.configure_broker(broker, "localhost")
    assert lists(broker) == [".r0", ".r1", ".r2"]
    broker_folder.prune(broker)
    assert lists(broker) == [".r0"]
    (newest,) = (broker / "revoked").iterdir()
    assert len(x509.load_pem_x509_crl(newest.read_bytes())) == 2
    assert newest.read_bytes() == (broker / "revoked.crl").read_bytes()


def test_another_certificate_of_a_revoked_name_has_its_rights_back(made: Repository, tmp_path: Path):
    """A replaced board: the old certificate stays revoked, and the id is in use again."""
    broker, folder = tmp_path / "broker", layout.opened(made.path)
    made.configure_broker(broker, "localhost")
    made.enroll("barn-1", output=tmp_path / "barn-1")
    with folder.locked():
        client_certificates.revoke_certificate(folder, "barn-1", layout.utc_now())
        assert "user barn-1" in acl(broker)
        client_certificates.issue_with_key(folder, "barn-1", "device", layout.utc_now())
        client_certificates.refresh_brokers(folder, layout.utc_now())
    assert "user barn-1" not in acl(broker)
    revoked = x509.load_pem_x509_crl((broker / "revoked.crl").read_bytes())
    assert len(revoked) == 1


def test_names_have_one_role(made: Repository, tmp_path: Path):
    """A device under the name of a client would have both rights."""
    made.certify_client("alice", role="operator", output=tmp_path / "alice")
    made.enroll("barn-1", broker="mqtts://localhost", output=tmp_path / "barn-1")
    for call in (
        lambda: made.enroll("alice", broker="mqtts://localhost", output=tmp_path / "device"),
        lambda: made.certify_client("alice", role="client", output=tmp_path / "client"),
        lambda: made.certify_client("barn-1", role="client", output=tmp_path / "client"),
        lambda: made.certify_client("origin", role="operator", output=tmp_path / "client"),
        lambda: made.certify_client("dashboard", role="operator", output=tmp_path / "client"),
    ):
        with pytest.raises(UsageError, match="belongs to"):
            call()


def test_clients_of_the_hosts_own_have_rights_before_their_certificates(made: Repository, tmp_path: Path):
    """A broker that isn't the host's reads others only after a signal: the first call found no device."""
    made.configure_broker(tmp_path / "broker", "localhost")
    lines = acl(tmp_path / "broker")
    for name in ("dashboard", "operator"):
        block = lines[lines.index(f"user {name}") :]
        assert "topic write edgeml/1/farm/device/+/call" in block[: block.index("")]
    made.certify_client("operator", role="client", output=tmp_path / "operator")
    lines = acl(tmp_path / "broker")
    assert lines.count("user operator") == 1
    assert "topic write edgeml/1/farm/device/+/infer/+/operator" in lines
    folder = layout.opened(made.path)
    with folder.locked():
        client_certificates.revoke_certificate(folder, "operator", layout.utc_now())
    lines = acl(tmp_path / "broker")
    assert lines[lines.index("user operator") + 1] == "topic deny #"
    assert lines.count("user operator") == 1


def test_relay_has_its_block_under_its_id(made: Repository, tmp_path: Path):
    """`enroll --relay` gives the right to pass on messages of the site."""
    made.configure_broker(tmp_path / "broker", "localhost")
    made.enroll("relay-1", relay=True, output=tmp_path / "relay-1")
    at = acl(tmp_path / "broker").index("user relay-1")
    assert "topic write edgeml/1/farm/relay/relay-1" in acl(tmp_path / "broker")[at:]


def test_server_certificate_is_issued_again_when_due_or_for_other_names(made: Repository, tmp_path: Path):
    """Otherwise the broker keeps it, and the authority's key may lie offline."""
    broker, folder = tmp_path / "broker", layout.opened(made.path)

    def served(now: datetime, *names: str) -> x509.Certificate:
        with folder.locked():
            broker_folder.write(folder, broker, names, now)
        return x509.load_pem_x509_certificate((broker / "broker.crt").read_bytes())

    now = datetime.now(UTC)
    first = served(now, "localhost")
    assert served(now + timedelta(days=300), "localhost") == first
    assert served(now, "other.example") != first
    late = served(now + timedelta(days=500), "other.example")
    assert not is_past_half(late, now + timedelta(days=500))
    (made.path / "keys" / "broker-ca.pem").unlink()
    opened = layout.opened(made.path)
    with opened.locked():
        broker_folder.write(opened, broker, ("other.example",), now + timedelta(days=501))
        with pytest.raises(UsageError, match=r"broker-ca\.pem"):
            broker_folder.write(opened, broker, ("third.example",), now)


def test_due_server_certificate_is_kept_while_the_key_of_its_authority_lies_offline(
    made: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Until it expires. The command that gives another is told with its date, and does that once the key is back."""
    broker, folder, now = tmp_path / "broker", layout.opened(made.path), datetime.now(UTC)
    made.configure_broker(broker, "localhost", "10.0.0.2", port=8884)
    first = (broker / "broker.crt").read_bytes()
    ends = x509.load_pem_x509_certificate(first).not_valid_after_utc
    assert broker_folder.brokers_due(folder, now + timedelta(days=400)) == []
    key = made.path / "keys" / "broker-ca.pem"
    key.rename(tmp_path / key.name)
    for late in (ends - timedelta(days=400), ends - timedelta(seconds=1)):
        with folder.locked():
            client_certificates.refresh_brokers(folder, late)
            broker_folder.write(folder, broker, ("localhost", "10.0.0.2"), late, port=8884)
        (told,) = broker_folder.brokers_due(folder, late)
    assert (broker / "broker.crt").read_bytes() == first
    with folder.locked(), pytest.raises(UsageError, match=r"broker-ca\.pem"):
        broker_folder.write(folder, broker, ("localhost", "10.0.0.2"), ends + timedelta(seconds=1), port=8884)
    assert f"expires on {ends:%Y-%m-%d}" in told
    (tmp_path / key.name).rename(key)
    settings = folder.enrollments.broker_folders()
    command = shlex.split(told.rpartition("run `")[2].removesuffix("`"))
    monkeypatch.setattr(layout, "utc_now", lambda: late)
    assert CliRunner().invoke(fleet, command[2:], catch_exceptions=False).exit_code == 0
    assert folder.enrollments.broker_folders() == settings
    assert broker_folder.brokers_due(folder, late) == []


def test_keys_of_authorities_have_the_passphrase_of_the_others(tmp_path: Path, monkeypatch):
    """Without it no certificate is issued, and none is recorded."""
    monkeypatch.setenv("EDGEML_KEY_PASSPHRASE", "a passphrase")
    path = tmp_path / "repo"
    repository.init(path)
    for name in ("device-ca", "broker-ca"):
        key = path / "keys" / f"{name}.pem"
        assert b"ENCRYPTED" in key.read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
    Repository.open(path).certify_client("alice", role="operator", output=tmp_path / "alice")
    monkeypatch.setenv("EDGEML_KEY_PASSPHRASE", "another")
    with pytest.raises(UsageError, match=r"device-ca\.pem can't be opened"):
        Repository.open(path).certify_client("bob", role="operator", output=tmp_path / "bob")
    assert layout.opened(path).enrollments.certificates("bob") == []


def test_repeated_revocation_ends_connections_again(made: Repository, tmp_path: Path):
    """At the broker whose folder failed the device came back. A board that replaces it stays connected."""
    broker, folder = tmp_path / "broker", layout.opened(made.path)
    made.configure_broker(broker, "localhost")
    made.enroll("barn-1", output=tmp_path / "barn-1")
    (broker / "acl").rename(tmp_path / "acl")
    (broker / "acl").mkdir()
    with pytest.raises(UsageError, match="can't be written"):
        made.revoke("barn-1")
    folder.enrollments.set_disconnected("barn-1")  # the host has ended the first connection
    (broker / "acl").rmdir()
    made.revoke("barn-1")
    assert folder.enrollments.connected_names() == ["barn-1"]
    folder.enrollments.set_disconnected("barn-1")
    made.replace("barn-1", output=tmp_path / "new")
    assert folder.enrollments.connected_names() == []

"""Enrolling: what a device gets, and what is signed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository import broker_config
from edgeml.repository.device_folder import DeviceFiles
from edgeml_agent import settings
from edgeml_core.errors import UsageError
from edgeml_io.password_file import with_password
from support.certificates import certify

URL = "mqtts://edge:s%22ecret@farm.example:8884"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repository.init(tmp_path / "repo", fleet="farm")
    return tmp_path / "repo"


def test_a_device_gets_its_configuration_and_trust_anchors(repo: Path, tmp_path: Path):
    """agent.toml names device, fleet, broker and the folder of the two roots, all relative to itself."""
    out = tmp_path / "pi-1"
    enrolled = repository.enroll(repo, "pi-1", labels={"site": "a"}, broker_url=URL, out_dir=out)
    config = tomllib.loads((out / "agent.toml").read_text())
    assert enrolled.config == str(out / "agent.toml")
    assert config["device"] == {"id": "pi-1", "fleet": "farm"}
    assert config["broker"] == {"url": URL}
    for name in ("releases", "fleet"):
        root = (repo / name / "metadata" / "1.root.json").read_bytes()
        assert (out / config["trust"]["root"] / f"{name}.root.json").read_bytes() == root
    assert (out / "agent.toml").stat().st_mode & 0o777 == 0o600


def test_without_a_broker_the_url_is_left_to_the_device(repo: Path, tmp_path: Path):
    """No --broker: agent.toml has no URL, so that the environment's holds."""
    repository.enroll(repo, "pi-1", labels={}, broker_url=None, out_dir=tmp_path)
    assert tomllib.loads((tmp_path / "agent.toml").read_text())["broker"] == {}


def test_labels_are_signed(repo: Path, tmp_path: Path):
    """Labels are in signed records, one for each device."""
    for device, labels in (("pi-1", {"site": "a"}), ("pi-2", {"site": "b", "target": "rpi4"})):
        repository.enroll(repo, device, labels=labels, broker_url=URL, out_dir=tmp_path / device)
    assert repository.opened(repo).records.enrolled() == {
        "pi-1": {"site": "a"},
        "pi-2": {"site": "b", "target": "rpi4"},
    }


def test_an_id_is_enrolled_once(repo: Path, tmp_path: Path):
    """The same id again is device-exists, and neither labels nor files change."""
    repository.enroll(repo, "pi-1", labels={"site": "a"}, broker_url=URL, out_dir=tmp_path / "pi-1")
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, "pi-1", labels={"site": "b"}, broker_url=URL, out_dir=tmp_path / "again")
    assert caught.value.code == "device-exists"
    assert not (tmp_path / "again").exists()
    assert repository.opened(repo).records.enrolled() == {"pi-1": {"site": "a"}}


@pytest.mark.parametrize(("device", "url"), [("Pi 1", URL), ("pi-1", "http://farm.example"), ("../pi", None)])
def test_bad_input_changes_nothing(repo: Path, tmp_path: Path, device: str, url: str | None):
    """A bad id or URL is a usage error, and no device is added."""
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, device, labels={}, broker_url=url, out_dir=tmp_path / "out")
    assert caught.value.code == "usage"
    assert repository.opened(repo).records.all() == {}


def test_a_folder_that_cant_be_written_enrolls_nobody(repo: Path, tmp_path: Path):
    """When the device's files can't be written, the device isn't signed either."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, "pi-1", labels={}, broker_url=URL, out_dir=tmp_path / "file")
    assert caught.value.code == "usage"
    assert repository.opened(repo).records.all() == {}


@pytest.mark.parametrize("content", ['[device]\nid = "pi-1"\n', "no TOML", "device = 3\n"])
def test_a_folder_of_another_device_is_left_as_it_is(repo: Path, tmp_path: Path, content: str):
    """Neither overwritten nor enrolled; the same device may be written there again after a crash."""
    out = tmp_path / "device"
    out.mkdir()
    (out / "agent.toml").write_text(content)
    with pytest.raises(UsageError, match=r"agent\.toml"):
        repository.enroll(repo, "pi-8", labels={}, broker_url=URL, out_dir=out)
    assert (out / "agent.toml").read_text() == content
    assert not repository.opened(repo).records.all()
    if "pi-1" in content:
        repository.enroll(repo, "pi-1", labels={}, broker_url=URL, out_dir=out)


def test_a_user_of_the_access_list_is_no_device(repo: Path, tmp_path: Path):
    """Each name with rights of its own, or a meaning in topics; a device of that name would have its rights."""
    for user in broker_config.RESERVED_NAMES:
        with pytest.raises(UsageError, match="rights that no device should have"):
            repository.enroll(repo, user, labels={}, broker_url=URL, out_dir=tmp_path / user)


def test_a_device_gets_the_authority_the_password_and_an_absolute_store(repo: Path, tmp_path: Path):
    """Copies beside agent.toml, which names them; only the owner reads the password."""
    ca, password, out = tmp_path / "ca.crt", tmp_path / "password", tmp_path / "pi-1"
    certify(tmp_path)
    password.write_text('pi "1"\n')
    given = DeviceFiles(ca=ca, password_file=password, store="/var/lib/edgeml")
    repository.enroll(repo, "pi-1", labels={}, broker_url="mqtts://pi-1@farm.example", out_dir=out, files=given)
    found = settings.load(out / "agent.toml", {})
    assert found.store.dir == Path("/var/lib/edgeml")
    assert found.broker.ca == out / "broker-ca.pem"
    assert found.broker.ca.read_bytes() == ca.read_bytes()
    assert with_password(found.broker.url, found.broker.password_file).password == 'pi "1"'
    assert found.broker.password_file.stat().st_mode & 0o777 == 0o600
    assert 'pi "1' not in (out / "agent.toml").read_text()


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("mqtts://pi-1@farm.example", {"store": "var/lib/edgeml"}),
        ("mqtts://pi-1@farm.example", {"store": "/var/\nlib"}),
        ("mqtts://pi-1@farm.example", {"ca": "absent"}),
        ("mqtts://pi-1@farm.example", {"ca": "password"}),
        ("mqtts://pi-1@farm.example", {"ca": "broker.key"}),
        ("mqtts://farm.example", {"password_file": "password"}),
        (None, {"password_file": "password"}),
    ],
)
def test_files_that_no_device_can_use_enroll_nobody(repo: Path, tmp_path: Path, url: str | None, given: dict):
    """A key in the authority's place would be copied to every device."""
    certify(tmp_path)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "broker.key").write_bytes((tmp_path / "ca.crt").read_bytes() + (tmp_path / "broker.key").read_bytes())
    given = {name: value if name == "store" else tmp_path / value for name, value in given.items()}
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, "pi-1", labels={}, broker_url=url, out_dir=tmp_path / "out", files=DeviceFiles(**given))
    assert caught.value.code == "usage"
    assert not (tmp_path / "out").exists()
    assert repository.opened(repo).records.all() == {}

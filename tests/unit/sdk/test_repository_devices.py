"""Enrolling: what a device gets, and what is signed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgeml import repository
from edgeml_core.errors import UsageError

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
    """Labels are in the signed fleet document, beside the devices that were there."""
    for device, labels in (("pi-1", {"site": "a"}), ("pi-2", {"site": "b", "target": "rpi4"})):
        repository.enroll(repo, device, labels=labels, broker_url=URL, out_dir=tmp_path / device)
    devices = repository.opened(repo).document().devices
    assert {name: device.labels for name, device in devices.items()} == {
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
    assert repository.opened(repo).document().devices["pi-1"].labels == {"site": "a"}


@pytest.mark.parametrize(("device", "url"), [("Pi 1", URL), ("pi-1", "http://farm.example"), ("../pi", None)])
def test_bad_input_changes_nothing(repo: Path, tmp_path: Path, device: str, url: str | None):
    """A bad id or URL is a usage error, and no device is added."""
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, device, labels={}, broker_url=url, out_dir=tmp_path / "out")
    assert caught.value.code == "usage"
    assert repository.opened(repo).document().devices == {}


def test_a_folder_that_cant_be_written_enrolls_nobody(repo: Path, tmp_path: Path):
    """When the device's files can't be written, the device isn't signed either."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        repository.enroll(repo, "pi-1", labels={}, broker_url=URL, out_dir=tmp_path / "file")
    assert caught.value.code == "usage"
    assert repository.opened(repo).document().devices == {}


@pytest.mark.parametrize("content", ['[device]\nid = "pi-1"\n', "no TOML", "device = 3\n"])
def test_a_folder_of_another_device_is_left_as_it_is(repo: Path, tmp_path: Path, content: str):
    """Neither overwritten nor enrolled; the same device may be written there again after a crash."""
    out = tmp_path / "device"
    out.mkdir()
    (out / "agent.toml").write_text(content)
    with pytest.raises(UsageError, match=r"agent\.toml"):
        repository.enroll(repo, "pi-8", labels={}, broker_url=URL, out_dir=out)
    assert (out / "agent.toml").read_text() == content
    assert not repository.opened(repo).document().devices
    if "pi-1" in content:
        repository.enroll(repo, "pi-1", labels={}, broker_url=URL, out_dir=out)


def test_a_user_of_the_shipped_access_list_is_no_device(repo: Path, tmp_path: Path):
    """Each user that the list names; a device of that name would have its rights."""
    access_list = Path(__file__).parents[3] / "docker/mosquitto/acl"
    users = {line.split()[-1] for line in access_list.read_text().splitlines() if line.startswith(("user ", "# user "))}
    assert users >= {"origin", "operator", "client"}
    for user in users - {"relay-1"}:
        with pytest.raises(UsageError, match="rights that no device should have"):
            repository.enroll(repo, user, labels={}, broker_url=URL, out_dir=tmp_path / user)

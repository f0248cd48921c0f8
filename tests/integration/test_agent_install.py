"""`edgeml-agent install` and its fellows, as an operator uses them: in their own process, with no broker anywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_agent.offline.install import install
from edgeml_agent.offline.sources import FolderFiles
from edgeml_agent.settings import load
from edgeml_agent.store import locks
from edgeml_agent.trust.trust import Trust
from edgeml_core.errors import TransportError, UsageError
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S


@pytest.fixture
def field(tmp_path):
    """A stick with a repository that wants version 1.0 on an enrolled device, which has seen nothing yet."""
    repository.init(tmp_path / "stick", fleet="farm")
    repository.enroll(
        tmp_path / "stick", "board-1", labels={}, broker_url="mqtt://127.0.0.1:1", out_dir=tmp_path / "device"
    )
    release(tmp_path, "1.0")
    return tmp_path


def release(field, version, **changes):
    """Publish and deploy a version on the stick; its bundle."""
    path = field / f"tiny-{version}.edgeml"
    tiny_onnx_bundle(path, version=version, weights_bytes=300_000, seed=int(version.replace(".", "")), **changes)
    repository.publish(field / "stick", [path])
    deploy(field / "stick", "tiny", version, selector="")
    return path


def agent(field, *arguments, as_json=True):
    """Run `edgeml-agent`; exit code, stdout as JSON or text, stderr."""
    command = [sys.executable, "-m", "edgeml_agent", *map(str, arguments), "--config", field / "device" / "agent.toml"]
    command += ["--json"] if as_json else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.returncode, json.loads(done.stdout) if as_json else done.stdout, done.stderr


def active(field):
    """The version that would be served."""
    return agent(field, "models")[1]["models"][0]["version"]


def test_a_stick_brings_what_the_fleet_wants(field):
    """Once; the second time there is nothing to do; a newer stick brings the newer version."""
    code, answer, _ = agent(field, "install", field / "stick")
    assert (code, [model["version"] for model in answer["installed"]]) == (0, ["1.0"])
    assert agent(field, "install", field / "stick", as_json=False)[:2] == (0, "up to date\n")
    release(field, "1.1")
    assert agent(field, "install", field / "stick", as_json=False)[:2] == (0, "installed tiny 1.1\n")
    status = agent(field, "status")[1]
    assert (status["device"], status["fleet"], status["running"]) == ("board-1", "farm", False)
    assert (status["models"][0]["version"], status["models"][0]["state"]) == ("1.1", "active")


def test_an_older_stick_is_refused(field):
    """Its metadata was seen in a newer version."""
    shutil.copytree(field / "stick", field / "old")
    release(field, "1.1")
    agent(field, "install", field / "stick")
    code, answer, _ = agent(field, "install", field / "old")
    assert (code, answer["error"]["code"]) == (4, "rollback-attempt")
    assert active(field) == "1.1"


def test_a_sites_copy_brings_what_the_fleet_wants(field):
    """On a device that has seen nothing, and on one that has heard from the fleet since the stick was written."""
    repository.enroll(
        field / "stick", "board-2", labels={"site": "barn"}, broker_url=None, out_dir=field / "second"
    )  # fmt: skip
    repository.export_site(field / "stick", "barn", field / "usb")
    shutil.move(field / "second", field / "device-2")
    shutil.rmtree(field / "device")
    shutil.move(field / "device-2", field / "device")
    config = field / "device" / "agent.toml"
    config.write_text(config.read_text().replace('# url = "mqtts://HOST:8883"', 'url = "mqtt://127.0.0.1:1"'))
    shutil.copytree(field / "device", field / "spare")
    assert agent(field, "install", field / "usb")[1]["installed"][0]["version"] == "1.0"
    shutil.rmtree(field / "device")
    shutil.move(field / "spare", field / "device")
    heard(field)
    assert agent(field, "install", field / "usb")[1]["installed"][0]["version"] == "1.0"
    release(field, "1.1")
    heard(field)
    code, answer, _ = agent(field, "install", field / "usb")
    assert (code, answer["error"]["code"]) == (4, "rollback-attempt")


def heard(field):
    """The device has seen the repository's newest metadata, as it would over the network."""
    settings = load(field / "device" / "agent.toml", {})
    Trust(settings.trust.root, settings.store.dir, FolderFiles(field / "stick"), settings.device).desired()


def test_a_stick_of_another_owner_is_refused(field, tmp_path):
    """By its keys."""
    agent(field, "install", field / "stick")
    repository.init(tmp_path / "other", fleet="farm")
    repository.enroll(tmp_path / "other", "board-1", labels={}, broker_url=None, out_dir=tmp_path / "other-device")
    repository.publish(tmp_path / "other", [tmp_path / "tiny-1.0.edgeml"])
    deploy(tmp_path / "other", "tiny", "1.0", selector="")
    code, answer, _ = agent(field, "install", tmp_path / "other")
    assert (code, answer["error"]["code"]) == (4, "signature-invalid")
    assert active(field) == "1.0"


def test_a_damaged_stick_is_a_bad_road(field):
    """The release isn't blamed: another copy of the stick installs."""
    shutil.copytree(field / "stick", field / "damaged")
    for chunk in (field / "damaged" / "chunks").glob("*/*"):
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    code, answer, _ = agent(field, "install", field / "damaged")
    assert (code, answer["error"]["code"]) == (5, "chunk-timeout")
    assert agent(field, "install", field / "stick")[0] == 0


def test_a_bundle_is_taken_when_trusted_metadata_lists_it(field):
    """And it stays until the fleet makes another deployment: the same stick has nothing new."""
    newer = release(field, "1.1")
    deploy(field / "stick", "tiny", "1.0", selector="")
    agent(field, "install", field / "stick")
    assert active(field) == "1.0"
    assert agent(field, "install", newer)[0] == 0
    assert active(field) == "1.1"
    agent(field, "install", field / "stick")
    assert active(field) == "1.1"


def test_a_bundle_with_a_flipped_byte_is_refused(field):
    """Wherever it is, and without a mark against the release."""
    newer = release(field, "1.1")
    deploy(field / "stick", "tiny", "1.0", selector="")
    agent(field, "install", field / "stick")
    whole = newer.read_bytes()
    newer.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    code, answer, _ = agent(field, "install", newer)
    assert (code, answer["error"]["code"]) == (4, "digest-mismatch")
    assert active(field) == "1.0"
    newer.write_bytes(whole)
    assert agent(field, "install", newer)[0] == 0


def test_a_bundle_that_no_trusted_metadata_lists_is_refused(field):
    """Also one of the right name and version, made by somebody else."""
    agent(field, "install", field / "stick")
    tiny_onnx_bundle(field / "tiny-1.0.edgeml", version="1.0", scale=9.0)
    code, answer, _ = agent(field, "install", field / "tiny-1.0.edgeml")
    assert (code, answer["error"]["code"]) == (4, "digest-mismatch")
    tiny_onnx_bundle(field / "unlisted.edgeml", version="6.6")
    code, answer, _ = agent(field, "install", field / "unlisted.edgeml")
    assert (code, answer["error"]["code"]) == (4, "signature-invalid")
    assert active(field) == "1.0"


def test_a_model_that_crashes_is_not_installed(field):
    """The probe comes before."""
    agent(field, "install", field / "stick")
    release(field, "1.1", fault="crash")
    code, answer, _ = agent(field, "install", field / "stick")
    assert (code, answer["error"]["code"]) == (6, "probe-crashed")
    assert active(field) == "1.0"


def test_model_that_fails_stops_no_other(field):
    """Each is tried, each failure is reported; the same stick again tries only the failed one."""
    for name, fault in (("a-bad", "crash"), ("z-bad", "crash"), ("good", None)):
        tiny_onnx_bundle(field / f"{name}.edgeml", name=name, version="1.0", fault=fault)
        repository.publish(field / "stick", [field / f"{name}.edgeml"])
        deploy(field / "stick", name, "1.0", selector="")
    code, answer, _ = agent(field, "install", field / "stick")
    assert code == 6
    assert {it["name"] for it in answer["installed"]} == {"tiny", "good"}
    assert {(it["name"], it["code"]) for it in answer["failed"]} == {
        ("a-bad", "probe-crashed"),
        ("z-bad", "probe-crashed"),
    }
    code, out, err = agent(field, "install", field / "stick", as_json=False)
    assert (code, out) == (6, "")
    assert re.findall(r"(?m)^error\[probe-crashed\]: (\S+) 1\.0: ", err) == ["a-bad", "z-bad"]


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "long", "folder"])
@pytest.mark.parametrize("file", ["fleet/metadata/timestamp.json", "releases/targets", "chunks"])
def test_stick_with_other_files_than_regular_ones_of_bounded_length_is_refused(field, kind, file):
    """At once, and without their content in memory; the lock on updates is free again."""
    shutil.copytree(field / "stick", field / "odd")
    path = field / "odd" / file
    if path.is_dir():
        path = max((it for it in path.rglob("*") if it.is_file()), key=lambda it: it.stat().st_size)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as long:
            long.truncate(3 * 1024**3)
    settings = load(field / "device" / "agent.toml", {})
    tracemalloc.start()
    try:
        if "metadata" in file:
            with pytest.raises(TransportError, match=r"timestamp\.json can't be read"):
                install(settings, field / "odd")
        else:
            (failure,) = install(settings, field / "odd").failures
            assert failure.error.code == ("chunk-timeout" if file == "chunks" else "trust-unavailable")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100e6
    lock = locks.take(settings.store.dir / locks.UPDATE)
    assert lock is not None
    lock.close()


def test_bundle_that_is_a_pipe_is_refused(field):
    """Opening it would wait for a writer, with the lock on updates held."""
    os.mkfifo(field / "pipe.edgeml")
    with pytest.raises(UsageError, match="not a regular file"):
        install(load(field / "device" / "agent.toml", {}), field / "pipe.edgeml")


def test_a_rollback_goes_back_once(field):
    """Then there is no version before."""
    agent(field, "install", field / "stick")
    release(field, "1.1")
    agent(field, "install", field / "stick")
    assert agent(field, "rollback", "tiny")[0] == 0
    assert active(field) == "1.0"
    code, answer, _ = agent(field, "rollback", "tiny")
    assert (code, answer["error"]["code"]) == (2, "usage")
    assert agent(field, "rollback", "other")[1]["error"]["code"] == "model-unknown"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("install", "nowhere.edgeml"), "usage"),
        (("install",), "usage"),
        (("unknown",), "usage"),
        (("rollback", "tiny", "more"), "usage"),
    ],
)
def test_usage_errors_exit_with_2_and_a_hint(field, arguments, code):
    """On stderr for people, on stdout under --json."""
    exit_code, answer, _ = agent(field, *arguments)
    assert (exit_code, answer["error"]["code"]) == (2, code)
    assert answer["error"]["hint"]
    exit_code, out, err = agent(field, *arguments, as_json=False)
    assert (exit_code, out) == (2, "")
    assert re.search(rf"^error\[{code}\]: .+(\n  cause: .+)?\nhint: .+$", err, re.MULTILINE)


@pytest.mark.parametrize("command", ["run", "install", "status", "models", "rollback", "doctor"])
def test_every_command_has_examples_in_its_help(command):
    """And no configuration is read for it."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeml_agent", command, "--help"], capture_output=True, text=True, check=True
    )
    assert f"edgeml-agent {command}" in done.stdout.partition("Examples:")[2]


def test_a_second_agent_on_the_same_store_is_refused(field):
    """Two would undo each other's work."""
    config = Path(field / "device" / "agent.toml")
    config.write_text(re.sub(r'http = ".*"', 'http = "127.0.0.1:0"', config.read_text()))
    first = subprocess.Popen(
        [sys.executable, "-m", "edgeml_agent", "run", "--config", config], stderr=subprocess.PIPE, text=True
    )
    try:
        while "listening" not in first.stderr.readline():
            assert first.poll() is None
        code, answer, _ = agent(field, "run")
        assert (code, answer["error"]["code"]) == (2, "usage")
        assert agent(field, "status")[1]["running"]
    finally:
        first.terminate()
        first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 0


def test_doctor_answers_with_and_without_a_configuration(field, tmp_path):
    """The broker of this one isn't there."""
    code, answer, _ = agent(field, "doctor")
    assert code == 6
    assert [check["name"] for check in answer["checks"] if check["status"] == "failed"] == ["broker"]
    command = [sys.executable, "-m", "edgeml_agent", "doctor"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0

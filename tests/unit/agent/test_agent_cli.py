"""`edgeml-agent`'s arguments, output and exit codes, in this process and on a real store."""

import json

import pytest

from edgeml_agent import cli
from edgeml_agent.store import locks
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Release, Releases
from edgeml_core import chunks, manifest
from edgeml_core.lifecycle import State
from support.samples import FILES, a_manifest


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The path of a device's agent.toml; the environment has no option."""
    for name in [name for name in cli.os.environ if name.startswith("EDGEML_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "agent.toml"
    path.write_text('[device]\nid = "board-1"\nlabels = {site = "farm"}\n[broker]\nurl = "mqtt://user:secret@broker"\n')
    return path


@pytest.fixture
def call(capsys, config):
    """Runs a command; returns its exit code, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--config", str(config)])
        return ended.value.code, *capsys.readouterr()

    return call


def install(config, version):
    """Put a verified release into the store and make it active."""
    store, releases = Store(config.parent / "store"), Releases(config.parent / "store", 1 << 30)
    data = manifest.encode(a_manifest(version=version))
    release = Release(digest=chunks.sha256(data), manifest_bytes=data, manifest=manifest.decode(data))
    partial = releases.begin(release, [record.active for record in store.records().values()])
    for content in FILES.values():
        for chunk in chunks.split(content):
            partial.put(chunks.sha256(chunk), chunk)
    partial.verify()
    releases.finish(partial)
    store.activate(
        ModelRecord(name="sample", state=State.ACTIVE, deployment="d1", version=version, wanted=release.digest), 1.0
    )
    store.close()
    return release.digest


def test_status_shows_the_device_and_its_models(call, config):
    """As text and as JSON; never the broker's password."""
    assert "no models" in call("status")[1]
    digest = install(config, "1.0")
    code, text, _ = call("status")
    assert code == 0
    place = config.parent / "store"
    assert f"board-1 of fleet edge, broker mqtt://broker:1883, store {place}: the agent doesn't run" in text
    assert "sample: serves 1.0 (rpi4, onnx); update to 1.0 active" in text
    found = json.loads(call("status", "--json")[1])
    assert (found["device"], found["labels"], found["running"]) == ("board-1", {"site": "farm"}, False)
    assert [(it["name"], it["manifest_sha256"]) for it in found["models"]] == [("sample", digest)]
    assert "secret" not in text + json.dumps(found)


def test_status_with_a_damaged_manifest_shows_the_model_s_error(call, config):
    """The device and the other models are shown, too: the command is there for devices with such troubles."""
    digest = install(config, "1.0")
    (Releases(config.parent / "store", 1 << 30).folder(digest) / manifest.MANIFEST_NAME).write_bytes(b"rot")
    code, text, _ = call("status")
    assert code == 0
    assert "sample: serves nothing; update to 1.0 active: error[store-failed]: the manifest of release" in text
    found = json.loads(call("models", "--json")[1])["models"][0]
    assert (found["manifest_sha256"], found["version"], found["code"]) == (digest, "", "store-failed")


@pytest.mark.parametrize("arguments", [("status",), ("models",), ("install", "absent.edgeml"), ("rollback", "sample")])
def test_command_on_a_new_store_warns_that_the_agent_may_have_another(call, config, arguments):
    """Once: the store is there afterwards."""
    assert f"warning: {config.parent / 'store'} is a new store" in call(*arguments)[2]
    assert "warning" not in call(*arguments)[2]


def test_status_sees_a_running_agent(call, config):
    """By its lock."""
    with locks.take(config.parent / "store" / locks.AGENT) as lock:
        assert lock is not None
        assert json.loads(call("status", "--json")[1])["running"] is True


def test_rollback_makes_the_previous_release_active(call, config):
    """Once: then there is none before it, which is a usage error with a hint."""
    first, _ = install(config, "1.0"), install(config, "2.0")
    assert json.loads(call("rollback", "sample", "--json")[1]) == {"name": "sample", "manifest_sha256": first}
    assert json.loads(call("models", "--json")[1])["models"][0]["version"] == "1.0"
    code, out, error = call("rollback", "sample")
    assert (code, out) == (2, "")
    assert "error[usage]: sample has no previous version" in error
    assert "hint: deploy another version" in error


def test_errors_are_json_where_json_is_requested(call):
    """On standard output, with the code, the message and the hint."""
    call("status")
    code, out, error = call("rollback", "absent", "--json")
    assert (code, error) == (2, "")
    assert json.loads(out)["error"]["code"] == "model-unknown"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["status", "--fast"], ["rollback"]])
def test_wrong_arguments_are_usage_errors(arguments, capsys):
    """With the command whose help explains them, and without a traceback."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "error[usage]" in (error := capsys.readouterr().err)
    assert "--help" in error


def test_a_missing_configuration_is_named(tmp_path, capsys):
    """With the path that was tried."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--config", str(tmp_path / "absent.toml")])
    assert ended.value.code == 2
    assert "absent.toml can't be read" in capsys.readouterr().err

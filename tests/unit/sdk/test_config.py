"""`edgeml config show`: settings with their origin, and no secret among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeml.cli.config import MASKED, masked
from edgeml.cli.main import run

SECRETS = ("correct-horse", "s3cret", "hf-token-1", "file-password")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch, capsys):
    """Run `edgeml config show` in a folder with secrets in its file and in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("EDGEML_KEY_PASSPHRASE", "correct-horse")
    monkeypatch.setenv("EDGEML_BROKER_URL", "mqtts://farm:s3cret@broker.example:8883")
    monkeypatch.setenv("EDGEML_HUB_TOKEN", "hf-token-1")
    Path("edgeml.toml").write_text(
        '[fleet.serve]\nbroker = "mqtt://host:s3cret/@x@broker.example"\npassword = "file-password"\n'
        '[export]\ntarget = ["rpi4"]\n'
    )

    def show(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run(["config", "show", *arguments])
        assert not ended.value.code
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_config_show_prints_no_secret(shown, arguments):
    """As a table, and as JSON."""
    text = shown(*arguments)
    assert [secret for secret in SECRETS if secret in text] == []
    assert MASKED in text


def test_config_show_prints_the_rest(shown):
    """Hosts, ports, targets, and where each setting comes from."""
    settings = json.loads(shown("--json"))["settings"]
    assert settings["broker.url"] == {
        "value": f"mqtts://{MASKED}@broker.example:8883",
        "origin": "EDGEML_BROKER_URL",
    }
    assert settings["key.passphrase"] == {"value": MASKED, "origin": "EDGEML_KEY_PASSPHRASE"}
    assert settings["fleet.serve.broker"]["value"] == f"mqtt://{MASKED}@broker.example"
    assert settings["export.target"] == {"value": ["rpi4"], "origin": "edgeml.toml"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("verify.key", "host.key", "host.key"),
        ("serve.token_file", "/etc/edgeml/token", "/etc/edgeml/token"),
        ("serve.token", "abc", MASKED),
        ("http.password", "", ""),
        ("export.calibrate", ["mqtt://a:b@c", 3], [f"mqtt://{MASKED}@c", 3]),
        ("export.max_drop", 0.02, 0.02),
        ("bench.broker", "mqtt://broker.example", "mqtt://broker.example"),
    ],
)
def test_masked_replaces_secrets_only(name, value, expected):
    """Paths, numbers and plain addresses stay readable."""
    assert masked(name, value) == expected

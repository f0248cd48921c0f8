"""`edgeml config show`: settings with their origin, and no secret among them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.core import ParameterSource

from edgeml.cli import config
from edgeml.cli.config import MASKED, masked
from edgeml.cli.main import edgeml, run

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


def commands(group=edgeml, path=()):
    """Yield every command with the names that lead to it."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.fixture
def here(tmp_path: Path, monkeypatch):
    """A folder to write an `edgeml.toml` in, without any other one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "files", lambda: (Path("edgeml.toml"),))
    return tmp_path


def refused(capsys, *arguments: str) -> str:
    """Run a command that fails by its settings, and return its error."""
    with pytest.raises(SystemExit) as ended:
        run([*arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("path", "command"), [pytest.param(*it, id=" ".join(it[0])) for it in commands()])
def test_each_option_comes_from_its_variable_and_from_a_file(here, monkeypatch, path, command):
    """By the name that users know; the parameter behind it may have another."""
    for option in command.params:
        name = next((it.removeprefix("--") for it in option.opts if it.startswith("--")), "json")
        if name == "json":
            continue
        value = "true" if option.is_flag else "'text'"
        (here / "edgeml.toml").write_text(f"[{'.'.join(path)}]\n{name} = {value}\n")
        defaults = config.default_map(click.Context(edgeml), edgeml, path[0])
        for table in path:
            defaults = defaults[table]
        context = command.make_context(path[-1], [], resilient_parsing=True, default_map=defaults)
        assert context.get_parameter_source(option.name) is ParameterSource.DEFAULT_MAP, name
        with monkeypatch.context() as environment:
            environment.setenv("_".join(("EDGEML", *path, name)).upper().replace("-", "_"), "1")
            context = command.make_context(path[-1], [], resilient_parsing=True, default_map=defaults)
        assert context.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT, name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[export]\nmaxsize = 1\n", "[export] has 'maxsize', which edgeml doesn't know"),
        ("[exprot]\nmax-size = 1\n", "it has 'exprot', which edgeml doesn't know"),
        ("[export.target]\nname = 'rpi4'\n", "[export] has 'target', which edgeml doesn't know"),
        ("export = 'rpi4'\n", "export = 'rpi4': a command's settings are a table"),
        ("[export]\ntask = ['ner', 'chat']\n", "[export] task has 2 values: --task takes one"),
        ("[export]\njson = true\n", "[export] has 'json', which edgeml doesn't know"),
        ("[export]\nmax-size = 2030-01-31T22:00:00\n", "'2030-01-31 22:00:00' is not a size"),
    ],
)
def test_settings_that_edgeml_would_ignore_are_refused(here, capsys, text, told):
    """Also those of TOML's own types: none is a fault of edgeml."""
    (here / "edgeml.toml").write_text(text)
    assert told in refused(capsys, "export", "model", "-o", "out", "--target", "rpi4")


def test_one_value_is_a_list_of_one_where_an_option_repeats(here):
    """A text isn't its characters."""
    (here / "edgeml.toml").write_text('[export]\ntarget = "rpi4"\n')
    assert config.default_map(click.Context(edgeml), edgeml, "export") == {"export": {"target": ["rpi4"]}}


def test_variable_without_an_option_stops_no_command(here, monkeypatch, capsys):
    """`EDGEML_VERSION=1` let every command print the version and do nothing."""
    monkeypatch.setenv("EDGEML_VERSION", "1")
    monkeypatch.setenv("EDGEML_EXPORT_HELP", "1")
    assert "error[" in refused(capsys, "export", str(here / "absent"), "-o", "out")


def test_config_show_prints_dates(here, capsys):
    """JSON has no type for TOML's."""
    (here / "edgeml.toml").write_text("[fleet.deploy]\nactivate-after = 2030-01-31T22:00:00\n")
    with pytest.raises(SystemExit) as ended:
        run(["config", "show", "--json"])
    assert not ended.value.code
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["fleet.deploy.activate_after"] == {"value": "2030-01-31 22:00:00", "origin": "edgeml.toml"}

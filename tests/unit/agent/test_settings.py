"""agent.toml and the environment over it."""

import pytest

from edgeml_agent import schedule, settings
from edgeml_agent.ports import ShadowPolicy
from edgeml_core.errors import UsageError

LEAST = '[device]\nid = "board-1"\n[broker]\nurl = "mqtt://broker.example"\n'


def loaded(tmp_path, text, **environment):
    """The settings that a file with `text` gives."""
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return settings.load(path, environment)


def test_settings_with_only_id_and_broker_have_defaults(tmp_path):
    """All else has a default; paths are beside the file."""
    found = loaded(tmp_path, LEAST)
    assert found.device == settings.DeviceSettings(id="board-1", fleet="edge", labels={})
    assert str(found.broker.url) == "mqtt://broker.example:1883"
    assert (found.store.dir, found.trust.root) == (tmp_path / "store", tmp_path / "trust")
    assert found.serve == settings.ServeSettings(
        http=settings.HttpAddress(host="127.0.0.1", port=8080), token_file=None
    )


def test_settings_from_the_environment_override_the_file(tmp_path):
    """Each key as EDGEML_SECTION_KEY; numbers and labels are read from text."""
    found = loaded(
        tmp_path,
        LEAST,
        EDGEML_BROKER_URL="mqtts://other.example",
        EDGEML_STORE_MAX_BYTES="1000",
        EDGEML_DEVICE_LABELS="site=farm,row=7",
        EDGEML_SERVE_HTTP="[::1]:0",
        EDGEML_UNRELATED="ignored",
    )
    assert str(found.broker.url) == "mqtts://other.example:8883"
    assert found.store.max_bytes == 1000
    assert found.device.labels == {"site": "farm", "row": "7"}
    assert found.serve.http == settings.HttpAddress(host="::1", port=0)


def test_settings_with_problems_name_all_of_them(tmp_path):
    """One try shows all that is to be fixed."""
    text = 'extra = 1\n[device]\nid = "Board 1"\nserial = 3\n[broker]\n[store]\nmax_bytes = -1\n'
    text += '[serve]\nhttp = "8080"\n[x]\n'
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, text)
    assert caught.value.code == "config-invalid"
    for problem in ("no section [x]", "no section [extra]", "'serial'", "device.id", "broker.url is missing",
                    "store.max_bytes", "serve.http", "has 7 problem(s)"):  # fmt: skip
        assert problem in caught.value.message


def test_settings_without_serve_mqtt_have_no_mqtt_api(tmp_path):
    """The API is off by default; sensors require it."""
    with_mqtt, sensors = LEAST + "[serve]\nmqtt = true\n", '[homeassistant]\nprefix = "homeassistant"\n'
    assert not loaded(tmp_path, LEAST).serve.mqtt
    assert loaded(tmp_path, with_mqtt).serve.mqtt
    assert loaded(tmp_path, LEAST, EDGEML_SERVE_MQTT="true").serve.mqtt
    assert not loaded(tmp_path, with_mqtt, EDGEML_SERVE_MQTT="false").serve.mqtt
    assert loaded(tmp_path, with_mqtt + sensors).homeassistant.prefix == "homeassistant"
    for text in (LEAST + sensors, with_mqtt.replace("true", '"yes"'), with_mqtt.replace("true", "1.5"),
                 with_mqtt + sensors.replace("home", "#/"), with_mqtt + sensors.replace("home", "/")):  # fmt: skip
        with pytest.raises(UsageError):
            loaded(tmp_path, text)


def test_settings_of_a_relay_without_a_url_are_none(tmp_path):
    """Its keys are those of a broker and a size; only the url makes it one."""
    assert loaded(tmp_path, LEAST).relay is None
    assert loaded(tmp_path, LEAST + "[relay]\nmax_bytes = 5\n").relay is None
    found = loaded(tmp_path, LEAST, EDGEML_RELAY_URL="mqtt://site", EDGEML_RELAY_CA="ca.crt").relay
    assert (str(found.broker.url), found.broker.ca) == ("mqtt://site:1883", tmp_path / "ca.crt")
    assert found.max_bytes == 2 * 1024**3
    with pytest.raises(UsageError, match=r"1 problem.*relay\.max_bytes: must be a whole number of bytes above 0"):
        loaded(tmp_path, LEAST + "[relay]\nmax_bytes = 0\n")


def test_settings_of_the_shadow_policy_have_defaults(tmp_path):
    """Seconds and counts are whole numbers, the others fractions."""
    assert loaded(tmp_path, LEAST).shadow == ShadowPolicy()
    found = loaded(tmp_path, LEAST + "[shadow]\nrequests = 7\ncanary = 1\n", EDGEML_SHADOW_MAX_S="60").shadow
    assert found == ShadowPolicy(requests=7, max_s=60, canary=1.0)
    with pytest.raises(UsageError, match="2 problem") as caught:
        loaded(tmp_path, LEAST + "[shadow]\nmax_s = 1.5\ncanary = 2\n")
    assert "shadow.max_s: must be a whole number above 0" in caught.value.message
    assert "shadow.canary: must be a fraction between 0 and 1" in caught.value.message


def test_settings_of_windows_are_parsed(tmp_path):
    """When to serve what is new, and when to fetch; none is always."""
    found = loaded(tmp_path, LEAST + '[update]\nwindow = "22:00-05:30"\n').update
    assert found == settings.UpdateSettings(window=schedule.DailyWindow(22 * 60, 5 * 60 + 30), fetch_window=None)


@pytest.mark.parametrize("line", ['labels = "site"', "labels = 3", 'labels = {Site = "farm"}', "id = 3", "fleet = ''"])
def test_settings_of_the_wrong_type_are_problems(tmp_path, line):
    """Whatever TOML allows."""
    text = LEAST.replace('id = "board-1"\n', f"{line}\n" if line.startswith("id") else f'id = "board-1"\n{line}\n')
    with pytest.raises(UsageError, match="1 problem"):
        loaded(tmp_path, text)


def test_settings_with_a_password_never_show_it(tmp_path):
    """Not in problems, and not in what is shown of the settings."""
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, LEAST.replace("mqtt://", "http://user:secret@"))
    assert "secret" not in caught.value.message
    assert "secret" not in repr(loaded(tmp_path, LEAST.replace("mqtt://", "mqtt://user:secret@")))


@pytest.mark.parametrize("content", [b"[device", b"\xff"])
def test_settings_in_a_malformed_file_are_refused(tmp_path, content):
    """With the file's name."""
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"agent\.toml can't be read"):
        settings.load(path, {})


def test_settings_with_half_of_a_key_pair_are_refused(tmp_path):
    """Beside the file, as all paths; one without the other is a mistake, and none is plain HTTP."""
    both = LEAST + '[serve]\ncert = "web.crt"\nkey = "web.key"\n'
    assert loaded(tmp_path, both).serve.cert == tmp_path / "web.crt"
    assert loaded(tmp_path, both).serve.key == tmp_path / "web.key"
    assert loaded(tmp_path, LEAST).serve.cert is None
    for one in (both.replace("cert =", "token_file ="), both.replace("key =", "token_file =")):
        with pytest.raises(UsageError, match="TLS takes both"):
            loaded(tmp_path, one)

"""The parts of a running agent together: one that fails is logged, and the models go on."""

import asyncio
import json

import httpx
import pytest

from edgeml_agent import main, settings
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_agent.relay.relay import Relay
from edgeml_core.errors import UsageError
from edgeml_io import aio
from support.ports import free_port
from support.waiting import until_async


@pytest.mark.parametrize(
    ("part", "error"),
    [(Relay, RuntimeError("a defect")), (MqttInference, UsageError("config-invalid", "no such file"))],
)
def test_part_that_fails_ends_no_serving(tmp_path, caplog, monkeypatch, part, error):
    """Neither the site's relay nor the requests over MQTT; only a defect is logged with a traceback."""
    config, port = tmp_path / "agent.toml", free_port()
    broker = f'url = "mqtt://127.0.0.1:{free_port()}"'
    config.write_text(
        f'[device]\nid = "pi"\n[broker]\n{broker}\n[relay]\n{broker}\n[serve]\nhttp = "127.0.0.1:{port}"\nmqtt = true\n'
    )

    async def fail(_):
        raise error

    monkeypatch.setattr(part, "run", fail)

    async def agent():
        running = asyncio.create_task(main._run(settings.load(config, {}), main._Restart()))
        await until_async(lambda: "paused" in caplog.text or running.done())
        assert not running.done()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/health")
        running.cancel()
        await asyncio.wait([running])
        return json.loads(answer.content)["ready"]

    assert asyncio.run(agent())
    is_defect = isinstance(error, RuntimeError)
    assert ("Traceback" in caplog.text, 'paused code="config-invalid"' in caplog.text) == (is_defect, not is_defect)


def test_relay_section_that_can_not_be_used_ends_an_agent_that_serves_nothing(tmp_path):
    """As the section of the fleet's broker does: the operator who starts it for the first time sees which file."""
    config, site = tmp_path / "agent.toml", f"mqtts://127.0.0.1:{free_port()}"
    config.write_text(
        f'[device]\nid = "pi"\n[broker]\nurl = "mqtt://127.0.0.1:{free_port()}"\n'
        f'[relay]\nurl = "{site}"\nca = "lost.pem"\n[serve]\nhttp = "127.0.0.1:{free_port()}"\n'
    )
    with pytest.raises(BaseExceptionGroup) as ended:
        asyncio.run(main._run(settings.load(config, {}), main._Restart()))
    found = aio.first_error(ended.value)
    assert isinstance(found, UsageError)
    assert (found.code, found.hint) == ("config-invalid", f"name PEM files for {site} in agent.toml")

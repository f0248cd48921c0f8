"""The session with a broker, and the files of its TLS connections."""

import asyncio

import pytest

from edgeml_agent.link.session import session
from edgeml_agent.settings import BrokerSettings
from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import UsageError
from edgeml_io.mqtt import MqttError
from support.certificates import certify
from support.ports import free_port


def test_files_that_can_not_be_used_end_the_agent_at_its_start_alone(tmp_path):
    """A file that an operator replaces, or a card loses, while the agent serves costs a connection."""
    certify(tmp_path)
    settings = BrokerSettings(url=BrokerUrl(host="127.0.0.1", port=free_port(), tls=True), ca=tmp_path / "ca.crt")

    async def connect(made):
        async with made.connected():
            pass

    made = session(settings, "pi")
    with pytest.raises(MqttError):
        asyncio.run(connect(made))
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(MqttError, match="ca, cert or key can't be used"):
        asyncio.run(connect(made))
    with pytest.raises(UsageError):
        asyncio.run(connect(session(settings, "pi")))


def test_password_file_that_can_not_be_used_ends_the_agent_at_its_start_alone(tmp_path):
    """It is read for each connection, as the TLS files are: a card that loses it must not keep models from serving."""
    password = tmp_path / "password"
    url = BrokerUrl(host="127.0.0.1", port=free_port(), tls=False, username="pi")
    made = session(BrokerSettings(url=url, password_file=password), "pi")

    async def connect():
        async with made.connected():
            pass

    with pytest.raises(UsageError, match="password file"):
        asyncio.run(connect())
    password.write_text("secret")
    with pytest.raises(MqttError):
        asyncio.run(connect())
    assert made.url.password == "secret"
    password.unlink()
    with pytest.raises(MqttError, match="password file"):
        asyncio.run(connect())

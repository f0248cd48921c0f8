"""The agent's HTTP server over TLS: `[serve] cert` and `key`, as an operator writes them."""

import json
import re
import socket
import ssl
import time

import httpx
import pytest

from edgeml_agent.http_api import tls
from edgeml_core.errors import UsageError
from support import brokers
from support.certificates import certify
from support.delivery_site import DEVICE, MODEL, TIMEOUT_S, site, until

TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder with a certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("certified")
    certify(folder)
    return folder


def test_models_answer_over_tls_and_only_so(certified, tmp_path):
    """With a token on the network; a client that says nothing holds nobody up, and `top` knows the certificate."""
    where = f"127.0.0.1:{brokers.free_port()}"
    (tmp_path / "token").write_text(TOKEN)
    with site(tmp_path) as made:
        given = [f'http = "{where}"', f'token_file = "{tmp_path}/token"']
        given += [f'cert = "{certified}/broker.crt"', f'key = "{certified}/broker.key"']
        made.config.write_text(re.sub(r'http = "127.*"', "\n".join(given), made.config.read_text()))
        made.publish("1.0", scale=2.0)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        trusted = ssl.create_default_context(cafile=certified / "ca.crt")
        header = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"https://{where}", verify=trusted, headers=header, timeout=TIMEOUT_S) as client:
            until(lambda: client.get("/health").json()["ready"], "it is ready")
            with socket.create_connection(where.split(":")):
                body = {"inputs": {"x": [[10.0, 0.0, 0.0, 0.0]]}}
                answer = client.post(f"/v1/models/{MODEL}/predict", json=body).json()
            assert answer["outputs"][0]["outputs"]["y"] == [[21.0, 1.0, 1.0, 1.0]]
            assert client.get("/v1/models", headers={"authorization": ""}).status_code == 401
            assert client.get("/v1/models", headers={"origin": f"https://{where}"}).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"https://{where}/health", trust_env=False, timeout=TIMEOUT_S)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{where}/health", trust_env=False, timeout=TIMEOUT_S)
        shown = made.run_agent_command("top", "--once")
        assert (shown.returncode, json.loads(shown.stdout)["device"]) == (0, DEVICE)
        certify(certified)  # renewed, and not yet read by the agent
        shown = made.run_agent_command("top", "--once")
        assert json.loads(shown.stdout)["error"]["code"] == "agent-unreachable"
        assert "another certificate" in shown.stdout
        started_s = time.monotonic()
        assert made.programs[-1].stop() == 0
        assert time.monotonic() - started_s < TIMEOUT_S / 2


def test_old_tls_is_not_spoken(certified):
    """Nothing before 1.2, whatever OpenSSL would allow."""
    certify(certified)
    made = tls.context(certified / "broker.crt", certified / "broker.key")
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2


def test_what_cant_be_used_is_said_at_the_start(certified, tmp_path):
    """A missing file, another certificate's key, a certificate in the key's place."""
    certify(certified)
    certify(tmp_path)
    own, other = certified / "broker.crt", tmp_path / "broker.key"
    for cert, key in ((own, tmp_path / "missing"), (own, other), (own, own)):
        with pytest.raises(UsageError, match=r"\[serve\] cert") as caught:
            tls.context(cert, key)
        assert caught.value.code == "config-invalid"

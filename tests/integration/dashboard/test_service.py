"""`edgeml fleet serve --http` as a program: over TLS, beside the broker, with a browser that follows a rollout."""

from __future__ import annotations

import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from paho.mqtt import publish

from edgeml.fleet.web.accounts import Role
from edgeml.repository import layout
from edgeml_core import messages
from edgeml_core.messages import DeviceState, Topics
from support import brokers, certificates, dashboard_fleet
from support.dashboard_fleet import PASSWORD
from support.programs import host_command, programs
from support.waiting import TIMEOUT_S, until

#: Seconds from SIGTERM to the end, with a stream of events that would go on for five minutes.
STOP_MAX_S = 60.0


def test_the_service_has_a_dashboard_over_tls(tmp_path: Path) -> None:
    """A login sets a secure cookie, the page shows the host, and SIGTERM ends it under an open stream and a call."""
    repo = tmp_path / "repo"
    dashboard_fleet.make(repo, 2)
    with dashboard_fleet.registry_of(repo) as registry:
        tokens = dashboard_fleet.add_accounts(repo, registry)
    certificates.certify(tmp_path)
    tls = ("--http-cert", str(tmp_path / "broker.crt"), "--http-key", str(tmp_path / "broker.key"))
    with brokers.mosquitto(tmp_path / "broker") as broker, programs() as started, ThreadPoolExecutor(1) as pool:
        log = tmp_path / "host.log"
        host = started.start(log, *host_command(repo, broker.url), "--http", "127.0.0.1:0", *tls)
        until(lambda: re.search(r"dashboard at (\S+)", log.read_text()), "the dashboard")
        url = re.search(r"dashboard at (\S+)", log.read_text())[1]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        with httpx.Client(base_url=url, verify=context, timeout=TIMEOUT_S) as client:
            form = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)[1]
            answer = client.post("/login", data={"name": "viewer", "password": PASSWORD, "csrf": form})
            [cookie] = [it for it in answer.headers.get_list("set-cookie") if it.startswith("__Host-edgeml-session")]
            assert {"Secure", "HttpOnly"} <= set(cookie.split("; "))
            until(lambda: "(leads)" in client.get("/").text, "the host on the page")
            headers = {"Authorization": f"Bearer {tokens[Role.DEPLOY]}"}
            robot = {"headers": headers, "verify": context, "timeout": TIMEOUT_S}
            [rollout] = httpx.get(f"{url}/api/v1/rollouts", **robot).json()["rollouts"]
            name = rollout["deployment"]["id"]
            with client.stream("GET", f"/rollouts/{name}/events", timeout=STOP_MAX_S) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("retry:")
                assert any(line == "event: changed" for line in lines)
                paused = httpx.post(f"{url}/api/v1/rollouts/{name}/pause", **robot)
                assert paused.json()["phase"] == "paused"
                assert any(line == "event: changed" for line in lines)
                state = messages.encode(DeviceState(online=True, session=1, models={}))
                publish.single(Topics("edge").state("d-0"), state, 1, retain=True, port=broker.port)
                address, call = f"{url}/api/v1/devices/d-0/calls", {"kind": "logs"}
                silent = pool.submit(httpx.post, address, json=call, **robot)
                until(lambda: layout.opened(repo).audit.entries()[-1].act == "call", "a device is called")
                begun_s = time.monotonic()
                assert host.stop() in {0, 130, 143}
                assert time.monotonic() - begun_s < STOP_MAX_S
                assert silent.result().status_code == 429
        assert "Traceback" not in log.read_text()

"""An operator's calls over a real Mosquitto, by the command line: log, checks, a benchmark, and a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeml.repository import layout
from support.delivery_site import DEVICE, TIMEOUT_S, Site, site, until
from support.programs import agent_command

ANSWER = 21.0
#: The agent's program, that takes a call for a restart at any time after its start.
PROGRAM = (
    "from edgeml_agent.probe import remote_calls; from edgeml_agent.cli import main;"
    "remote_calls.RESTART_EVERY_S = 0; main()"
)


def said(made: Site, *arguments: str, exit_code: int = 0) -> dict[str, object]:
    """What a command of `edgeml fleet` answers."""
    reach = ("--repo", str(made.repo), "--broker", made.broker.url, "--json", "--quiet")
    ran = subprocess.run(
        [sys.executable, "-m", "edgeml", "fleet", *arguments, *reach],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert ran.returncode == exit_code, ran.stdout + ran.stderr
    found: dict[str, object] = json.loads(ran.stdout.splitlines()[0])
    return found


@pytest.mark.nightly
def test_operator_reads_checks_and_restarts_a_device(tmp_path: Path):
    """The device serves again after its restart, as the same process with another session; the audit log has all."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        agent = made.programs.start(made.folder / "agent.log", "-c", PROGRAM, *agent_command(made.config)[2:])
        made.observer.await_report(state="active", version="1.0")
        until(lambda: made.answers(ANSWER), "version 1.0 answers")
        log = said(made, "logs", DEVICE, "--lines", "20")["log"]
        assert any('called kind="logs"' in line for line in log)
        checks = said(made, "call", DEVICE, "doctor")["checks"]
        assert ("broker", "ok") in {(it["name"], it["status"]) for it in checks}
        assert said(made, "call", DEVICE, "verify")["reproduced"]["max_abs"] == 0.0
        assert said(made, "call", DEVICE, "bench", "--seconds", "0.1")["trial"]["latency"]["runs"] >= 30
        session = made.observer.states()[-1].session
        said(made, "call", DEVICE, "restart")
        until(lambda: made.observer.states()[-1].session > session, "the agent connects again")
        until(lambda: made.answers(ANSWER), "version 1.0 answers again")
        assert agent.process.poll() is None
        kinds = [it.details["kind"] for it in layout.opened(made.repo).audit.entries() if it.act == "call"]
        assert kinds == ["logs", "doctor", "verify", "bench", "restart"]

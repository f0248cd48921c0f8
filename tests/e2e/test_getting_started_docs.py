"""docs/getting-started-fleet.md, command by command: a host with its own broker, three agents that enroll by token.

The host's name and the ports differ, and the export gives way to a small bundle. All programs run on this machine.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509

from edgeml.fleet.fleet import Fleet
from support.ports import free_port
from support.tiny_models import tiny_text_bundle
from support.waiting import TIMEOUT_S, until

PAGE = Path(__file__).parents[2] / "docs" / "getting-started-fleet.md"
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BOARDS = ("barn-1", "barn-2", "barn-3")
COMMANDS_MAX = 8


def commands():
    """The page's commands, in their order."""
    blocks = [textwrap.dedent(block) for _, block in BLOCK.findall(PAGE.read_text())]
    return [line for block in blocks for line in block.splitlines()]


class Followed:
    """The programs that were started so far, in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {"8883": free_port(), "8443": free_port()}
        self.running = []
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGEML_")}
        self.environment = {**kept, "EDGEML_KEY_PASSPHRASE": "a passphrase"}

    def arguments(self, line):
        """A command of the page as this machine runs it."""
        line = line.replace("--with-broker host.example", f"--with-broker localhost:{self.ports['8883']}")
        line = line.replace("host.example:8443", f"localhost:{self.ports['8443']}")
        if "--with-broker" in line:
            line += f" --enroll localhost:{self.ports['8443']}"
        program, *given = shlex.split(line)
        paths = [str(path) for it in given for path in (sorted(self.folder.glob(it)) if "*" in it else [it])]
        return [sys.executable, "-m", {"edgeml": "edgeml", "edgeml-agent": "edgeml_agent"}[program], *paths]

    def run(self, line):
        """Run a command to its end, and return what it prints."""
        done = subprocess.run(
            self.arguments(line), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line, name, **environment):
        """Start a command that goes on."""
        with (self.folder / f"{name}.log").open("wb") as log:
            given = {**self.environment, **environment}
            program = subprocess.Popen(self.arguments(line), cwd=self.folder, env=given, stdout=log, stderr=log)
        self.running.append(program)

    def log(self, name):
        """What a program that goes on has printed."""
        return (self.folder / f"{name}.log").read_text()

    def until(self, holds, what):
        """Wait for a condition, for as long as every program runs."""

        def holds_or_ended():
            ended = [it for it in self.running if it.poll() is not None]
            assert not ended, "".join(path.read_text() for path in self.folder.glob("*.log"))
            return holds()

        until(holds_or_ended, what)

    def end(self):
        """End all, the host last."""
        for program in reversed(self.running):
            program.terminate()
        for program in reversed(self.running):
            program.wait(TIMEOUT_S)


@pytest.fixture
def followed(tmp_path):
    """Nothing has been done yet."""
    made = Followed(tmp_path)
    yield made
    made.end()


def test_documented_commands_end_with_three_boards_that_serve_in_two_stages(followed):
    """Each board has its own certificate; the first stage reaches some of them, the second all."""
    folder, page = followed.folder, commands()
    assert len(page) <= COMMANDS_MAX
    assert "openssl" not in PAGE.read_text()
    init, export, publish, serve, token, enroll, run, deploy = page
    followed.run(init)
    assert export.startswith("edgeml export ")
    (folder / "out").mkdir()
    tiny_text_bundle(folder / "out" / "minilm-1-x86-vnni-onnx.edgeml", name="minilm", version="1")
    followed.run(publish)
    followed.start(serve, "host")
    followed.until(lambda: "devices with a token enroll" in followed.log("host"), "the host runs")
    tokens = followed.run(token).split()
    assert len(tokens) == len(BOARDS)
    ports = {board: free_port() for board in BOARDS}
    for board, one in zip(BOARDS, tokens, strict=True):
        followed.run(enroll.replace("TOKEN", one).replace("barn-1", board))
        http = f"127.0.0.1:{ports[board]}"
        followed.start(run.replace("barn-1", board), board, EDGEML_SERVE_HTTP=http, EDGEML_SERVE_TUNE="false")
    followed.run(deploy.replace("--soak 1m", "--soak 1s"))

    def active():
        states = json.loads(followed.run("edgeml fleet status --repo fleet --json"))["deployments"][0]["states"]
        return states.get("active", 0)

    followed.until(lambda: active() == len(BOARDS), "all boards are active")
    (rollout,) = Fleet(folder / "fleet").rollouts()
    assert len(rollout.plan.waves) == 2
    assert "rights are missing" not in "".join(map(followed.log, BOARDS))
    certificates = [x509.load_pem_x509_certificate((folder / it / "device.pem").read_bytes()) for it in BOARDS]
    assert len({it.serial_number for it in certificates}) == len(BOARDS)
    for port in ports.values():
        url = f"http://127.0.0.1:{port}/v1/models/minilm/predict"
        with urllib.request.urlopen(urllib.request.Request(url, b'{"text": "a good day"}')) as answer:
            assert json.loads(answer.read())["model"] == "minilm"

"""docs/deploy.md, followed step by step: from no certificate to a served model, over TLS, with the shipped files.

Only the broker's name and the ports differ. `docker` is a stub that waits until the programs of the compose file run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import msgspec
import pytest

from edgeml.fleet import status
from edgeml.repository import Repository, layout
from edgeml_agent import settings
from edgeml_agent.commands import doctor
from support import brokers
from support.certificates import certify
from support.compose_file import services
from support.ports import free_port
from support.tiny_models import tiny_text_bundle
from support.waiting import TIMEOUT_S, until

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PASSPHRASE = "a passphrase with blanks"
#: The user of the images: where the test is root, the broker runs as it, as no container of the file runs as root.
ORDINARY_USER = 10_001
PROGRAMS = {
    "edgeml": f'exec {shlex.quote(sys.executable)} -m edgeml "$@"',
    "docker": 'echo "$@" > asked.new; mv asked.new asked; while [ ! -e up ]; do sleep 0.05; done',
}


@pytest.fixture
def checkout():
    """A folder with the files that the steps begin with, and programs that are on the path."""
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="edgeml-deploy-"))
    folder.chmod(0o755)
    shutil.copytree(ROOT / "docker", folder / "docker")
    (folder / "out").mkdir()
    tiny_text_bundle(folder / "out" / "minilm-1-x86-gateway-onnx.edgeml", name="minilm", version="1")
    (folder / "bin").mkdir()
    for name, line in PROGRAMS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def steps(page):
    """The commands of a page, in their order."""
    return "".join(textwrap.dedent(block) for _, block in BLOCK.findall(page.read_text()))


def adapted(text, ports):
    """A text with the test's ports on loopback alone."""
    text = text.replace("BROKER=broker.example", "BROKER=localhost").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - away from them
    text = re.sub(r"^listener (\d+)$", r"listener \1 127.0.0.1", text, flags=re.MULTILINE)
    for documented, port in ports.items():
        text = text.replace(documented, str(port))
    return text


class Followed:
    """The steps under way: one shell, and the programs of the compose file."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {"8883": free_port(), "8080": free_port()}
        path = folder / "docker" / "compose.yaml"
        path.write_text(adapted(path.read_text(), self.ports))
        (folder / "steps.sh").write_text(adapted(steps(ROOT / "docs" / "deploy.md"), self.ports))
        self.programs = {}
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGEML_")}
        self.environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin"
        self.shell = self._start("shell", ["bash", "-eu", "-o", "pipefail", "steps.sh"], stdin=subprocess.PIPE)
        self.shell.stdin.write(f"{PASSPHRASE}\n".encode())
        self.shell.stdin.close()

    def _start(self, name, command, **options):
        options = {"env": self.environment, **options}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.programs[name] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **options)
        return self.programs[name]

    def log(self, name):
        """What a program has printed."""
        return (self.folder / f"{name}.log").read_text()

    def until(self, holds, what):
        """Wait for a condition, for as long as no program has failed."""

        def holds_or_failed():
            ended = [name for name, program in self.programs.items() if program.poll()]
            assert not ended, "\n".join(self.log(name) for name in ended)
            return holds()

        until(holds_or_failed, what)

    def start_services(self):
        """What `docker compose up` does, by the arguments that it was given."""
        options = (self.folder / "asked").read_text().split()
        env_file, compose = (self.folder / options[options.index(name) + 1] for name in ("--env-file", "-f"))
        variables = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
        assert variables["EDGEML_USER"] == f"{os.getuid()}:{os.getgid()}"
        found = services(compose, {**variables, "EDGEML_KEY_PASSPHRASE": PASSPHRASE})
        # The origin looks for the broker's folder under the path that the repository has.
        (known,) = layout.opened(self.folder / "docker" / "repo").enrollments.broker_folders()
        assert found["origin"].mounts[known].samefile(found["broker"].mounts["/mosquitto/config"])
        as_user = {}
        if os.geteuid() == 0:
            for path in [self.folder / "docker", *(self.folder / "docker").rglob("*")]:
                os.chown(path, ORDINARY_USER, ORDINARY_USER)
            as_user = {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": []}
        for path, service in (("broker/mosquitto.conf", "broker"), ("device/agent.toml", "agent")):
            text = adapted((compose.parent / path).read_text(), self.ports)
            (compose.parent / path).write_text(found[service].outside(text))
        for name, service in found.items():
            program, *arguments = [service.outside(argument) for argument in service.command]
            command = {"edgeml": ["-m", "edgeml"], "edgeml-agent": ["-m", "edgeml_agent"]}.get(program)
            given = {key: service.outside(value) for key, value in service.environment.items()}
            if command is None:
                self._start(name, [brokers.program(), *arguments], **as_user)
                self.until(lambda: brokers.listens(self.ports["8883"]), "the broker listens")
            else:
                self._start(name, [sys.executable, *command, *arguments], env={**self.environment, **given})

    def end(self):
        """Stop the shell and all programs."""
        for program in reversed(self.programs.values()):
            program.terminate()
            try:
                program.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                program.kill()


def test_each_compose_command_finds_its_file():
    """The page says to stand in the checkout, whose compose file is in `docker`."""
    words = (ROOT / "docs" / "deploy.md").read_text().split("docker compose ")[1:]
    assert len(words) >= 2
    assert [it for it in words if "-f docker/compose.yaml " not in it.partition("\n")[0]] == []


def section(title):
    """The blocks of one section of the page, in their order."""
    text = (ROOT / "docs" / "deploy.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_documented_relay_and_its_devices_reach_the_sites_broker(checkout):
    """Its devices have users with passwords there, with the rights of the fleet's broker; the relay is the origin."""
    commands, relay, config = section("A site with many devices: the relay")
    repository, site = Repository.init(checkout / "docker" / "repo", passphrase=""), checkout / "barn"
    repository.configure_broker(checkout / "docker" / "broker", "broker.example")
    site.mkdir()
    certify(site)
    shutil.copy(site / "broker.crt", site / "barn.crt")
    shutil.copy(site / "broker.key", site / "barn.key")
    shutil.copy(site / "ca.crt", checkout / "barn-ca.pem")
    shutil.copy(checkout / "docker" / "broker" / "acl", site)
    (site / "passwords").touch(mode=0o600)
    for name in ("origin", "board-1"):
        (checkout / f"{name}.password").write_text(f"secret of {name}\n")
        make = [shutil.which("mosquitto_passwd"), "-b", site / "passwords", name, f"secret of {name}"]
        subprocess.run(make, check=True)
    config = config.replace("listener 8883\n", "").replace("/etc/mosquitto", str(site))
    with brokers.mosquitto(site, config) as broker:
        commands, relay = (it.replace("barn.local", f"127.0.0.1:{broker.port}") for it in (commands, relay))
        path = f"{checkout / 'bin'}:{os.environ['PATH']}"
        subprocess.run(
            [shutil.which("bash"), "-euc", commands], cwd=checkout, env={**os.environ, "PATH": path}, check=True
        )
        for name in ("origin.password", "barn-ca.pem"):
            shutil.copy(checkout / name, checkout / "relay-1")
        with (checkout / "relay-1" / "agent.toml").open("a") as file:
            file.write(relay)
        gate, board = (settings.load(checkout / it / "agent.toml", {}) for it in ("relay-1", "board-1"))
        origin = msgspec.structs.replace(gate.device, id="origin")
        found = [next(doctor.broker(*it)) for it in ((board.broker, board.device), (gate.relay.broker, origin))]
    assert [it.status for it in found] == ["ok", "ok"], found
    assert str(gate.broker.url) == "mqtts://broker.example:8883"


def test_documented_steps_end_with_a_served_model_over_tls(checkout):
    """Without root's rights at the broker, without the release key at the origin, and with no password in a command."""
    followed = Followed(checkout)
    try:
        followed.until((checkout / "asked").exists, "the steps before `docker compose`")
        followed.start_services()
        repo = checkout / "docker" / "repo"
        followed.until(lambda: status.status(repo).deployments[0].states == {"active": 1}, "the release is active")
        secrets = (PASSPHRASE, (checkout / "docker" / "device" / "token").read_text().strip())
        for name in ("broker", "origin", "agent"):
            arguments = Path(f"/proc/{followed.programs[name].pid}/cmdline").read_text()
            assert arguments
            assert not [secret for secret in secrets if secret in arguments]
        (checkout / "up").touch()
        assert followed.shell.wait(TIMEOUT_S) == 0, followed.log("shell")
        assert "rights are missing" not in followed.log("agent")
        assert (
            str(checkout / "docker" / "data" / "agent") in (checkout / "docker" / "device" / "agent.toml").read_text()
        )
    finally:
        followed.end()
    *_, verified, answer = followed.log("shell").splitlines()
    assert verified.startswith("reproduced on ")
    assert json.loads(answer)["model"] == "minilm"
    assert PASSPHRASE not in "".join(followed.log(name) for name in followed.programs)
    assert not [name for name in ("release", "broker-ca") if (repo / "keys" / f"{name}.pem").exists()]

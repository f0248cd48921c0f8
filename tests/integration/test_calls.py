"""A device called over a real Mosquitto, by the command line: it checks and benches what it holds, and serves on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeml_core import messages
from edgeml_core.calls import Call, Reply
from support.delivery_site import DEVICE, FLEET, TIMEOUT_S, Site, site, until
from support.tiny_models import tiny_onnx_bundle

ANSWER = 21.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    """A site whose device serves a bundle that the operator has, too."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        until(lambda: made.answers(ANSWER), "version 1.0 answers")
        yield made


def bundle(made: Site) -> Path:
    """What the device serves."""
    return made.folder / "tiny-1.0.edgeml"


def command(made: Site, name: str, path: Path, *options: str, device: str = DEVICE) -> list[str]:
    """A command of `edgeml` on a device, with JSON."""
    reach = ("--on", f"device:{device}", "--broker", made.broker.url, "--fleet", FLEET)
    return [sys.executable, "-m", "edgeml", name, str(path), *reach, *options, "--json", "--quiet"]


def said(*arguments: object, exit_code: int = 0, **more: str) -> dict[str, object]:
    """What a command answers."""
    given = command(*arguments, **more)  # type: ignore[arg-type]
    ran = subprocess.run(given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ran.returncode == exit_code, ran.stdout + ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_a_device_verifies_what_it_serves(served: Site):
    """The golden outputs, reproduced there."""
    found = said(served, "verify", bundle(served))
    assert (found["ok"], found["on"], found["how"], found["max_abs"]) == (True, f"device:{DEVICE}", "measured", 0.0)
    assert found["cpu"] == served.observer.states()[-1].cpu


def test_a_device_benches_as_this_machine_does_and_serves_on(served: Site):
    """The same figures, by the same code; and what serves answers all the while."""
    asked = ("--seconds", "2", "--threads", "1")
    local = [sys.executable, "-m", "edgeml", "bench", str(bundle(served)), "--seconds", "0.05", "--json", "--quiet"]
    here = json.loads(subprocess.run(local, capture_output=True, check=True).stdout)
    answers = 0
    with subprocess.Popen(command(served, "bench", bundle(served), *asked), stdout=subprocess.PIPE) as benching:
        while benching.poll() is None:
            assert served.answer() == ANSWER
            answers += 1
        there = json.loads(benching.communicate()[0])
    assert answers > 10
    assert there.keys() == here.keys()
    assert there["host"].keys() == here["host"].keys()
    same = ("manifest_sha256", "cpu", "engine", "engine_version", "case", "input_shapes")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    assert (there["on"], there["threads"]) == (f"device:{DEVICE}", 1)
    assert there["latency"]["runs"] >= 30
    assert there["peak_rss_bytes"] > 20e6


def test_what_a_device_can_not_do_is_said(served: Site, tmp_path: Path):
    """A bundle that it hasn't, a golden case that there isn't, a device that nobody knows, one that is away."""
    other = tmp_path / "other.edgeml"
    tiny_onnx_bundle(other, name="other")
    assert code(said(served, "verify", other, exit_code=6)) == "release-absent"
    assert code(said(served, "bench", bundle(served), "--case", "9", exit_code=2)) == "usage"
    assert code(said(served, "verify", bundle(served), exit_code=2, device="nobody")) == "device-unknown"
    served.programs[-1].stop()
    assert code(said(served, "verify", bundle(served), exit_code=5)) == "device-offline"
    served.broker.stop()
    assert code(said(served, "verify", bundle(served), exit_code=5)) == "broker-unreachable"


def test_a_call_from_before_is_not_answered(served: Site):
    """Neither one that waited at the broker while the device was away nor one retained there for what comes next."""
    topics, observer = served.observer.topics, served.observer
    state = observer.states()[-1]
    digest = said(served, "bench", bundle(served), "--seconds", "0.05")["manifest_sha256"]
    late = [Call(id=i * 32, session=s, kind="verify", manifest_sha256=str(digest))
            for i, s in (("a", state.session), ("b", state.session + 1))]  # fmt: skip
    observer.publish(topics.call(DEVICE), messages.encode(late[1]), retain=True)
    served.programs[-1].stop()
    observer.publish(topics.call(DEVICE), messages.encode(late[0]))
    served.start_agent()
    until(lambda: observer.states()[-1].session > state.session, "the agent is back")
    said(served, "verify", bundle(served))

    def replies() -> set[str]:
        topic = topics.reply(DEVICE)
        return {messages.decode(payload, Reply).id for at, payload in list(observer.heard) if at == topic}

    until(lambda: len(replies()) >= 2, "the observer has both replies")
    assert len(replies()) == 2
    assert not replies() & {call.id for call in late}


def code(answer: dict[str, object]) -> str:
    """The code of the error that a command answered, which has a remedy."""
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["hint"]
    return str(error["code"])

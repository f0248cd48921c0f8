"""Delivery between real processes on a real Mosquitto: what gets through, what is refused, and who answers meanwhile.

Version 1.0 answers 21 to 10, version 2.0 would answer 31. Whatever goes wrong, one of them must answer: the right one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_agent.fetch import flow_control
from edgeml_core import chunks, wire_keys
from edgeml_core.trust import REPOSITORIES
from support.delivery_site import DEVICE, FLEET, MODEL, Site, site, until

OLD: Final = 21.0
NEW: Final = 31.0
#: Long enough to be killed in the middle: 245 chunks.
LONG_BYTES: Final = 16_000_000
MEDIUM_BYTES: Final = 2_000_000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    """A site whose device serves version 1.0."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1, weights_bytes=MEDIUM_BYTES)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        until(lambda: made.answers(OLD), "version 1.0 answers")
        yield made


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents take eight seconds for LONG_BYTES, so a test on a busy computer sees them in the middle of it."""
    monkeypatch.setenv("EDGEML_UPDATE_MAX_BYTES_PER_S", "2000000")


@contextmanager
def answering(made: Site, expected: float) -> Iterator[None]:
    """Ask without pause while the block runs; every answer must be the expected one."""
    ended, wrong, count = threading.Event(), [], 0

    def ask() -> None:
        nonlocal count
        while not ended.is_set():
            count += 1
            try:
                if (answer := made.answer()) != expected:
                    wrong.append(f"answered {answer}")
            except Exception as error:  # noqa: BLE001 - whatever it is, the client got no answer
                wrong.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
    assert not wrong, f"{len(wrong)} of {count} requests: {wrong[:3]}"
    assert count > 0


def announced(made: Site) -> None:
    """Return when the host has announced what the repository holds now."""
    timestamps = [(made.repo / repo / "metadata" / "timestamp.json").read_bytes() for repo in REPOSITORIES]
    until(lambda: set(timestamps) <= {payload for _, payload in made.observer.heard}, "the host announces")


def held_chunks(folder: Path) -> set[str]:
    """The ids of the chunks that lie in the folder of a release, found without the agent's code."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {hashlib.sha256(chunk).hexdigest()[:32] for content in contents for chunk in chunks.split(content)}


@pytest.mark.usefixtures("limited")
def test_killed_in_mid_fetch_the_agent_resumes_with_what_it_holds(served: Site) -> None:
    """After SIGKILL the old version answers at once, no chunk on the disk is wanted again, and the new one follows."""
    served.publish("2.0", scale=3.0, seed=2, weights_bytes=LONG_BYTES)
    before = len(served.observer.heard)
    served.deploy("2.0")
    # Of those published the agent has stored all but one window at least.
    until(lambda: len(served.observer.chunks(before)) > 50 + flow_control.MOST_CHUNKS, "the fetch is half done")
    served.programs[-1].kill()
    fetched = served.partial()
    assert fetched is not None, "the fetch was over before the kill"
    held = held_chunks(fetched)
    assert len(held) >= 50

    restarted = len(served.observer.heard)
    served.start_agent()
    until(lambda: served.answers(OLD), "version 1.0 answers after the kill")
    served.observer.await_report(state="active", version="2.0")
    until(lambda: served.answers(NEW), "version 2.0 answers")
    wanted_again = set(served.observer.wants(restarted))
    assert wanted_again, "nothing was left to fetch: the test proves nothing"
    assert not wanted_again & held
    manifest_chunks = -(-LONG_BYTES // chunks.CHUNK_BYTES) + 2
    again = len(served.observer.wants(before)) - manifest_chunks
    assert again <= flow_control.MOST_CHUNKS, "more than one window was wanted twice"


def test_without_a_broker_the_agent_serves_what_served_last(served: Site) -> None:
    """After SIGKILL and with the broker away, the version of before answers."""
    served.programs[-1].kill()
    served.broker.stop()
    served.start_agent()
    until(lambda: served.answers(OLD), "version 1.0 answers")


def test_chunks_with_a_flipped_byte_are_refused(served: Site) -> None:
    """A stolen origin sends other content: digest-mismatch, reported; the old version answers until right ones come."""
    host, agent = served.programs
    agent.stop()
    served.publish("2.0", scale=3.0, seed=2, weights_bytes=MEDIUM_BYTES)
    served.deploy("2.0")
    announced(served)
    host.kill()
    served.observer.answer_wants(lambda key: flipped(served, key))
    served.start_agent()
    until(lambda: served.answers(OLD), "version 1.0 answers")
    with answering(served, OLD):
        served.observer.await_report(state="waiting", version="2.0", code="digest-mismatch")

    served.observer.answer_wants(lambda key: stored(served, key))
    served.observer.await_report(state="active", version="2.0")
    until(lambda: served.answers(NEW), "version 2.0 answers")


def flipped(made: Site, key: str) -> bytes:
    """A chunk as a stolen origin would send it."""
    payload = bytearray(stored(made, key))
    payload[-1] ^= 1
    return bytes(payload)


def stored(made: Site, key: str) -> bytes:
    """A whole chunk, whether its difference was wanted or not."""
    chunk_id, *_ = wire_keys.ids(key)
    return (made.repo / "chunks" / chunk_id[:2] / chunk_id).read_bytes()


def test_releases_of_an_unknown_key_are_refused(served: Site, tmp_path: Path) -> None:
    """An attacker without the keys gets signature-invalid; the owner's next version still arrives later."""
    forged = tmp_path / "forged"
    repository.init(forged, fleet=FLEET)
    repository.enroll(forged, DEVICE, labels={}, broker_url=None, out_dir=tmp_path / "forged-device")
    repository.publish(forged, [served.publish("2.0", scale=3.0, seed=2, weights_bytes=MEDIUM_BYTES)])
    deploy(forged, MODEL, "2.0", selector="")
    announced(served)
    # The host would put it right, maybe before the device looks.
    served.programs[0].stop()
    with answering(served, OLD):
        for repo in reversed(REPOSITORIES):
            for path in sorted((forged / repo).rglob("*.json")):
                topic = served.observer.topics.trust(repo, path.relative_to(forged / repo).as_posix())
                served.observer.publish(topic, path.read_bytes(), retain=True)
        served.observer.await_report(state="rejected", code="signature-invalid")

    served.start_host()  # it announces everything again, over the forged files
    served.deploy("2.0")
    served.observer.await_report(state="active", version="2.0")
    until(lambda: served.answers(NEW), "version 2.0 answers")


def test_old_metadata_replayed_is_refused(served: Site) -> None:
    """Who kept what was signed for version 1.0 can't bring it back: rollback-attempt, and version 2.0 answers."""
    topic = served.observer.topics.trust("fleet", "metadata/timestamp.json")
    kept = [payload for at, payload in served.observer.heard if at == topic][-1]
    served.publish("2.0", scale=3.0, seed=2, weights_bytes=MEDIUM_BYTES)
    served.deploy("2.0")
    served.observer.await_report(state="active", version="2.0")
    until(lambda: served.answers(NEW), "version 2.0 answers")
    # The host would put it right, maybe before the device looks.
    served.programs[0].stop()
    with answering(served, NEW):
        served.observer.publish(topic, kept, retain=True)
        served.observer.await_report(state="rejected", code="rollback-attempt")


def test_a_model_that_crashes_its_runtime_harms_nothing(served: Site) -> None:
    """It crashes in the probe: probe-crashed, reported, and the old version answers without a pause."""
    served.publish("2.0", fault="crash", seed=2, weights_bytes=MEDIUM_BYTES)
    with answering(served, OLD):
        served.deploy("2.0")
        report = served.observer.await_report(state="rolled back", version="2.0", code="probe-crashed")
    assert "SIG" in report.message


def test_a_version_is_swapped_in_under_traffic(served: Site) -> None:
    """Not one request fails while version 2.0 takes over, and the state message says so."""
    served.publish("2.0", scale=2.0, seed=2, weights_bytes=MEDIUM_BYTES)
    with answering(served, OLD):
        served.deploy("2.0")
        served.observer.await_report(state="active", version="2.0")
        until(lambda: served.observer.states()[-1].models[MODEL].version == "2.0", "the state says 2.0")


def test_a_newer_wish_interrupts_the_one_before(served: Site) -> None:
    """Version 2.0 is dropped in mid-fetch when 3.0 is wanted."""
    served.publish("2.0", scale=5.0, seed=2, weights_bytes=LONG_BYTES)
    served.publish("3.0", scale=3.0, seed=3, weights_bytes=MEDIUM_BYTES)
    served.deploy("2.0")
    served.observer.await_report(state="fetching", version="2.0")
    served.deploy("3.0")
    served.observer.await_report(state="active", version="3.0")
    until(lambda: served.answers(NEW), "version 3.0 answers")
    served.programs[-1].stop()
    assert json.loads(served.run_agent_command("models").stdout)["models"][0]["version"] == "3.0"


def test_an_agent_that_keeps_crashing_after_an_activation_goes_back(served: Site) -> None:
    """The third unclean restart brings version 1.0 back, reports crash-loop, and 2.0 isn't tried again."""
    served.publish("2.0", scale=3.0, seed=2, weights_bytes=MEDIUM_BYTES)
    served.deploy("2.0")
    served.observer.await_report(state="active", version="2.0")
    for expected in (NEW, NEW, OLD):
        served.programs[-1].kill()
        served.start_agent()
        until(partial(served.answers, expected), f"the answer is {expected}")
    served.observer.await_report(state="rolled back", version="2.0", code="crash-loop")
    assert served.answer() == OLD


def test_an_operator_rolls_back_beside_the_running_agent(served: Site) -> None:
    """`edgeml-agent rollback` works with the broker away, and the running agent follows."""
    served.publish("2.0", scale=3.0, seed=2, weights_bytes=MEDIUM_BYTES)
    served.deploy("2.0")
    served.observer.await_report(state="active", version="2.0")
    until(lambda: served.answers(NEW), "version 2.0 answers")
    served.broker.stop()
    assert served.run_agent_command("rollback", MODEL).returncode == 0
    until(lambda: served.answers(OLD), "version 1.0 answers again")


def test_sigterm_says_goodbye(served: Site) -> None:
    """The agent ends with code 0 and leaves a retained state that says that it is offline."""
    assert served.programs[-1].stop() == 0
    until(lambda: not served.observer.states()[-1].online, "the offline state")
    assert served.observer.states()[-1].session == 1

"""A relay and what one device of its site can do to the others' messages. Its brokers are away."""

import itertools
import tracemalloc
from datetime import UTC, datetime

import pytest

from edgeml_agent.link.link import MqttLink
from edgeml_agent.ports import SiteRecord
from edgeml_agent.relay import backlog
from edgeml_agent.relay.cache import Cache
from edgeml_agent.relay.files import SiteFiles
from edgeml_agent.relay.relay import CALLS_MAX, Relay
from edgeml_agent.relay.site import Site
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import manifest, messages
from edgeml_core.calls import Reply
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.messages import DeviceState, Report, Topics
from edgeml_core.records import DeviceRecord
from support.memory_connection import URL
from support.samples import a_manifest

TOPICS = Topics("farm")
NEVER = datetime(2100, 1, 1, tzinfo=UTC)
STATE = messages.encode(DeviceState(online=True, session=1))


def report(deployment, text=""):
    """A report, encoded."""
    outcome = Report(deployment=deployment, name="m", version="1", state="fetching", session=1, message=text)
    return messages.encode(outcome)


@pytest.fixture
def relay(tmp_path):
    """A relay of a site with two devices and one deployment."""
    broker, settings = (
        BrokerSettings(url=URL, ca=None, cert=None, key=None),
        DeviceSettings(id="r", fleet="farm", labels={}),
    )
    link = MqttLink(broker, settings, itertools.count(1).__next__)
    made = Relay("r", link, Cache(tmp_path, 1 << 20), Site(broker, "relay", TOPICS), TOPICS)
    devices = {
        name: DeviceRecord(
            fleet="farm", device=name, version=1, labels={"site": "barn"}, revoked=name == "stolen", expires=NEVER
        )
        for name in ("r", "loud", "quiet", "stolen")
    }
    records = {name: SiteRecord(record=record, line=name.encode()) for name, record in devices.items()}
    deployments = tuple(
        Deployment(id=f"d-{number}", name="m", version="1", selector="", percent=100.0, bundles=())
        for number in range(400)
    )
    document = FleetDocument(fleet="farm", deployments=deployments)
    made.show(SiteFiles(document=document, site="barn", records=records, manifests={}, files={}))
    return made


def test_manifest_that_this_agent_can_not_read_keeps_no_other_file_from_the_site(relay):
    """A host may be newer than the relay: its site's devices may read what the relay can't."""
    readable = manifest.encode(a_manifest())
    manifests = {"1" * 64: b'{"format": "edgeml/9"}', "2" * 64: readable}
    files = {("releases", f"targets/{digest}.manifest.json"): data for digest, data in manifests.items()}
    document = FleetDocument(fleet="farm", deployments=())
    relay.show(SiteFiles(document=document, site="barn", records={}, manifests=manifests, files=files))
    assert relay._site._retained == {TOPICS.trust(*name): data for name, data in files.items()}
    assert [it.release for it in relay._releases] == ["2" * 32]


def test_flood_of_one_device_fills_no_memory_and_displaces_no_other(relay):
    """4,000 long reports while the fleet's broker was away took 190 MB."""
    relay.on_site_message(TOPICS.state("quiet"), STATE)
    relay.on_site_message(TOPICS.report("quiet"), report("d-1"))
    tracemalloc.start()
    for number in range(4000):
        relay.on_site_message(TOPICS.report("loud"), report(f"d-{number}", "x" * 60_000))
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 1.5 * backlog.BACKLOG_MAX_BYTES
    kept = relay._upward.take()
    assert [it.subject for it in kept if it.device == "quiet"] == [("quiet", ""), ("quiet", "d-1")]
    assert {it.report.deployment for it in kept if it.device == "loud"} <= {f"d-{number}" for number in range(400)}


def test_newest_messages_survive_a_new_connection(relay):
    """All states are queued again, but no older one replaces a newer."""
    relay.on_site_message(TOPICS.state("quiet"), STATE)
    relay.on_site_message(TOPICS.state("loud"), STATE)
    relay._upward.take()
    newer = DeviceState(online=False, session=2)
    relay.on_site_message(TOPICS.state("quiet"), messages.encode(newer))
    relay.connected()
    assert {it.device: it.state.session for it in relay._upward.take()} == {"quiet": 2, "loud": 1}


def test_replies_are_forwarded_for_calls_only(relay, monkeypatch):
    """A device that replies without a call would fill the relay's outbox."""
    forwarded = []
    monkeypatch.setattr(relay._link, "forward", lambda topic, payload: forwarded.append((topic, payload)))
    reply = messages.encode(Reply(id="call"))
    for _ in range(3):
        relay.on_site_message(TOPICS.reply("loud"), reply)
    assert forwarded == []
    relay.on_message(TOPICS.call("quiet"), b"call")
    for device in ("loud", "quiet", "quiet"):
        relay.on_site_message(TOPICS.reply(device), reply)
    assert forwarded == [(TOPICS.reply("quiet"), reply)]
    for _ in range(5 * CALLS_MAX):
        relay.on_message(TOPICS.call("loud"), b"call")
    for _ in range(5 * CALLS_MAX):
        relay.on_site_message(TOPICS.reply("loud"), reply)
    assert len(forwarded) == 1 + CALLS_MAX


def test_malformed_messages_of_one_device_are_logged_once(relay, caplog):
    """They would fill the disk otherwise."""
    for _ in range(100):
        relay.on_site_message(TOPICS.state("loud"), b"[")
        relay.on_site_message(TOPICS.report("quiet"), b"[")
    assert [record.message.count("relay drops a message") for record in caplog.records] == [1, 1]


def test_revoked_device_is_shown_its_record_and_served_nothing(relay):
    """It learns of the revocation; its messages are dropped."""
    assert relay._site._retained[TOPICS.record("stolen")] == b"stolen"
    relay.on_site_message(TOPICS.state("stolen"), STATE)
    relay.on_site_message(TOPICS.state("quiet"), STATE)
    assert [it.device for it in relay._upward.take()] == ["quiet"]


@pytest.mark.parametrize("topic", ["", "stray", "edgeml/1/farm", "edgeml/1/farm/want", "edgeml/1/farm/device/quiet"])
def test_message_on_any_topic_ends_nothing(relay, topic):
    """The site's broker chooses the topics of what it sends; an error would end the relay, and its own models."""
    relay.on_site_message(topic, STATE)
    assert relay._upward.take() == []

"""Messages and topics."""

import pytest

from edgeml_core import messages
from edgeml_core.calls import Call, Refused, Reply, Timing
from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.messages import DeviceState, ModelState, Report, Topics, Tuned, Want

REPORT = Report(deployment="d", name="m", version="1", state="fetching", session=3, done_bytes=5)
CALL = Call(id="0" * 32, session=3, kind="bench", manifest_sha256="f" * 64, timing=Timing(case=2, threads=4))
REPLY = Reply(id="0" * 32, cpu="Cortex-A76", refused=Refused.of(DeviceError("device-busy", "busy", "call again")))
STATE = DeviceState(online=True, session=3, models={"m": ModelState(version="1", state="active")})


@pytest.mark.parametrize("message", [Want(keys=("a", "b")), REPORT, STATE, CALL, REPLY])
def test_a_message_survives_its_encoding(message):
    """What is decoded is what was encoded."""
    assert messages.decode(messages.encode(message), type(message)) == message


def test_a_newer_senders_fields_are_ignored():
    """An old receiver understands what it knows."""
    assert messages.decode(b'{"keys":["a"],"later":1}', Want) == Want(keys=("a",))


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"keys":"a"}', b"x" * 70_000, messages.encode(Want(keys=("a",) * 257))]
)
def test_bad_messages_are_refused(payload):
    """Malformed, too long, or wanting too much."""
    with pytest.raises(RejectedError) as caught:
        messages.decode(payload, Want)
    assert caught.value.code == "document-format"


@pytest.mark.parametrize("number", [10**400, 2**64, -(2**63) - 1], ids=["huge", "positive", "negative"])
@pytest.mark.parametrize("field", ["session", "memory_bytes"])
def test_numbers_are_bounded(field, number):
    """A reader that divided 10**400 by a float failed, and with it the page of the device."""
    payload = f'{{"online":true,"session":1,"{field}":{number}}}'
    with pytest.raises(RejectedError) as caught:
        messages.decode(payload.encode(), DeviceState)
    assert caught.value.code == "document-format"


def test_topics_lie_below_protocol_and_fleet():
    """Two fleets on one broker don't meet."""
    topics = Topics("farm")
    assert topics.trust("releases", "metadata/timestamp.json") == "edgeml/1/farm/trust/releases/metadata/timestamp"
    assert topics.trust("fleet", "metadata/12.snapshot.json") == "edgeml/1/farm/trust/fleet/metadata/snapshot/12"
    assert topics.trust("releases", "targets/ab12.mood-1.0-pi-onnx.json") == "edgeml/1/farm/trust/releases/targets/ab12"
    assert topics.chunk("d") == "edgeml/1/farm/chunk/d"
    assert [topics.want("x"), topics.state("x"), topics.report("x"), topics.call("x"), topics.reply("x")] == [
        "edgeml/1/farm/want/x",
        "edgeml/1/farm/device/x/state",
        "edgeml/1/farm/device/x/report",
        "edgeml/1/farm/device/x/call",
        "edgeml/1/farm/device/x/reply",
    ]


def test_topics_of_requests_and_answers_name_client_and_device():
    """So that the broker's rights can bind each to its user."""
    topics = Topics("farm")
    assert [topics.infer("x", "mood", "camera"), topics.answer("x", "mood"), topics.client("camera", "x")] == [
        "edgeml/1/farm/device/x/infer/mood/camera",
        "edgeml/1/farm/device/x/answer/mood",
        "edgeml/1/farm/client/camera/x",
    ]


@pytest.mark.parametrize("family", [UsageError, RejectedError, DeviceError])
def test_a_refusal_is_the_same_error_after_its_way(family):
    """Its family, its code and its remedy; where it came from stands before its message."""
    error = Refused.of(family("usage", "no such case", "name another")).error("on barn-1: ")
    assert type(error) is family
    assert (error.code, error.message, error.hint) == ("usage", "on barn-1: no such case", "name another")


def test_tuned_on_the_wire_names_the_batch_size_share():
    """Hosts and devices of different versions understand each other, and devices keep their tuning."""
    tuned = Tuned(
        threads=2, batch_size=4, prepared=False, saved_bytes=0, exported_ms=2.0, tuned_ms=1.0, predicted_ram_bytes=1,
        measured_ram_bytes=1,
    )  # fmt: skip
    report = Report(deployment="d1", name="mood", version="1.0", state="active", session=1, tuned=tuned)
    assert b'"tuned":{"threads":2,"share":4,' in messages.encode(report)
    assert messages.decode(messages.encode(report), Report) == report

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


def test_topics_lie_below_protocol_and_fleet():
    """Two fleets on one broker don't meet."""
    topics = Topics("farm")
    assert topics.trust("releases", "metadata/timestamp.json") == "edgeml/1/farm/trust/releases/metadata/timestamp.json"
    assert topics.chunk("d") == "edgeml/1/farm/chunk/d"
    assert [topics.want("x"), topics.state("x"), topics.report("x"), topics.call("x"), topics.reply("x")] == [
        "edgeml/1/farm/want/x",
        "edgeml/1/farm/device/x/state",
        "edgeml/1/farm/device/x/report",
        "edgeml/1/farm/device/x/call",
        "edgeml/1/farm/device/x/reply",
    ]


def test_a_device_answers_clients_under_its_own_name_only():
    """The rest of the tree is what it and others say of themselves."""
    topics = Topics("farm")
    assert [topics.infer("x", "mood"), topics.answer("x", "mood"), topics.client("camera", "x")] == [
        "edgeml/1/farm/device/x/infer/mood",
        "edgeml/1/farm/device/x/answer/mood",
        "edgeml/1/farm/client/camera/x",
    ]
    assert topics.takes_answers("x", topics.answer("x", "mood"))
    assert topics.takes_answers("x", topics.client("camera", "x"))
    for topic in (topics.state("x"), topics.infer("x", "mood"), topics.client("camera", "y"), topics.client("+", "x"),
                  topics.client("", "x/y"), topics.client("\n", "x"), topics.client("a" * 256, "x"), "client/camera/x",
                  Topics("other").client("camera", "x"), topics.answer("x", "mood/more"), ""):  # fmt: skip
        assert not topics.takes_answers("x", topic), topic


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

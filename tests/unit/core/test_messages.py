"""Messages and topics."""

import pytest

from edgeml_core import messages
from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, ModelState, Report, Topics, Want

REPORT = Report(deployment="d", name="m", version="1", state="fetching", session=3, done_bytes=5)
STATE = DeviceState(online=True, session=3, models={"m": ModelState(version="1", state="active")})


@pytest.mark.parametrize("message", [Want(keys=("a", "b")), REPORT, STATE])
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
    assert [topics.want("x"), topics.state("x"), topics.report("x")] == [
        "edgeml/1/farm/want/x",
        "edgeml/1/farm/device/x/state",
        "edgeml/1/farm/device/x/report",
    ]

"""What a relay says of its site: many messages in one, strictly decoded."""

import msgspec
import pytest
import zstandard

from edgeml_core import relay_batch
from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, Report
from edgeml_core.relay_batch import RelayedMessage

REPORT = Report(deployment="d-1", name="m", version="1", state="active", session=3)


def sayings(count):
    """What devices say of one update, all nearly the same."""
    state = DeviceState(online=True, session=3, agent="1.0", arch="x86_64", cpu="some", cpu_features=("avx2",) * 20)
    return [
        RelayedMessage(device=f"d-{number}", state=state)
        if number % 2
        else RelayedMessage(device=f"d-{number}", report=REPORT)
        for number in range(count)
    ]


def one_payload(count):
    """What they say, in one payload."""
    (payload,) = relay_batch.pack(sayings(count))
    return payload


def test_what_is_packed_is_unpacked():
    """In order; fifty devices take little more than one."""
    assert relay_batch.unpack(one_payload(50)) == sayings(50)
    assert len(one_payload(50)) < 4 * len(one_payload(2))


def test_payloads_are_bounded_in_messages_and_bytes():
    """Twenty long reports of one device threw away the whole payload, and so the messages of others."""
    long = msgspec.structs.replace(REPORT, message="\x00" * 10_000)
    many = [RelayedMessage(device=f"d-{number}", report=long) for number in range(60)] + sayings(600)
    payloads = list(relay_batch.pack(many))
    assert [message for payload in payloads for message in relay_batch.unpack(payload)] == many
    assert len(payloads) == 60 * len(msgspec.json.encode(many[0])) // relay_batch.UNPACKED_MAX_BYTES + 3
    assert list(relay_batch.pack([])) == []


def test_payload_at_the_bound_is_unpacked():
    """The commas between the messages count."""
    size_bytes = len(msgspec.json.encode(RelayedMessage(device="d", report=REPORT)))
    message = "x" * (relay_batch.UNPACKED_MAX_BYTES // relay_batch.MESSAGES_MAX - size_bytes)
    long = msgspec.structs.replace(REPORT, message=message)
    for payload in relay_batch.pack([RelayedMessage(device="d", report=long)] * relay_batch.MESSAGES_MAX):
        relay_batch.unpack(payload)


def test_one_message_has_no_more_bytes_than_a_devices_own():
    """A relay's packet of 100 bytes unpacked to a state of 1 MiB; the others of its payload count all the same."""
    long = RelayedMessage(device="d", state=DeviceState(online=True, session=1, message="a" * 100_000))
    (payload,) = relay_batch.pack([long, *sayings(2)])
    first, *others = relay_batch.unpack(payload)
    with pytest.raises(RejectedError, match=r"at most 65536"):
        first.message()
    assert [it.message() for it in others] == [it.state or it.report for it in sayings(2)]
    with pytest.raises(RejectedError, match="neither"):
        RelayedMessage(device="d").message()


def test_a_newer_saying_has_the_same_subject():
    """A state replaces a state, a report one of the same deployment."""
    first, second = (
        RelayedMessage(device="a", report=REPORT),
        RelayedMessage(device="a", state=DeviceState(online=True, session=1)),
    )
    assert first.subject != second.subject
    assert first.subject == RelayedMessage(device="a", report=msgspec.structs.replace(REPORT, state="fetching")).subject
    assert first.subject != RelayedMessage(device="b", report=REPORT).subject


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        zstandard.compress(b"{}"),
        zstandard.compress(b'[{"device": 3}]'),
        zstandard.compress(b'[{"device": "d", "state": {"online": true, "session": 1%b}}]' % (b"0" * 400)),
        zstandard.compress(b"[" * 100_000),
        zstandard.compress(bytes(relay_batch.UNPACKED_MAX_BYTES + 1)),
        zstandard.compress(msgspec.json.encode(sayings(relay_batch.MESSAGES_MAX + 1))),
        one_payload(2)[:-4],
    ],
)
def test_anything_else_is_refused(payload):
    """Malformed, cut, too long: with the code of a bad message."""
    with pytest.raises(RejectedError) as caught:
        relay_batch.unpack(payload)
    assert caught.value.code == "document-format"

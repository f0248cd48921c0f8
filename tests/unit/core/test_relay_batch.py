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


def test_what_is_packed_is_unpacked():
    """In order; fifty devices take little more than one."""
    assert relay_batch.unpack(relay_batch.pack(sayings(50))) == sayings(50)
    assert len(relay_batch.pack(sayings(50))) < 4 * len(relay_batch.pack(sayings(2)))


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
        zstandard.compress(b"[" * 100_000),
        zstandard.compress(bytes(relay_batch.UNPACKED_MAX_BYTES + 1)),
        relay_batch.pack(sayings(relay_batch.MESSAGES_MAX + 1)),
        relay_batch.pack(sayings(2))[:-4],
    ],
)
def test_anything_else_is_refused(payload):
    """Malformed, cut, too long: with the code of a bad message."""
    with pytest.raises(RejectedError) as caught:
        relay_batch.unpack(payload)
    assert caught.value.code == "document-format"

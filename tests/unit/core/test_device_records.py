"""A device's record: only the fleet's keys sign it, for one device, and nothing else passes for it."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from edgeml_core import records
from edgeml_core.errors import RejectedError
from edgeml_core.records import DeviceRecord, KeySignature, SignedRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = DeviceRecord(
    fleet="farm", device="pi-1", version=3, labels={"site": "barn", "target": "rpi4"}, groups=("g",), expires=NOW
)
SIGNERS = [CryptoSigner.generate_ed25519() for _ in range(3)]


def a_root(count=1, threshold=1):
    """A root that trusts the first keys for targets."""
    root = Root(consistent_snapshot=True)
    for signer in SIGNERS[:count]:
        root.add_key(signer.public_key, Targets.type)
    root.roles[Targets.type].threshold = threshold
    return root


def signed(record=RECORD, signers=SIGNERS[:1]):
    """A record with signatures, encoded."""
    found = [signer.sign(records.payload(record)) for signer in signers]
    signatures = tuple(KeySignature(keyid=it.keyid, sig=it.signature) for it in found)
    return records.encode(SignedRecord(signed=record, signatures=signatures))


def refusal(data, root=None, **expected):
    """The code with which a record is refused."""
    with pytest.raises(RejectedError) as caught:
        records.verified(data, root or a_root(), **{"fleet": "farm", "device": "pi-1"} | expected)
    return caught.value.code


def test_signed_record_is_read_as_it_was_signed():
    """For its device, and for a relay, which takes those of any device."""
    assert records.verified(signed(), a_root(), fleet="farm", device="pi-1") == RECORD
    assert records.verified(signed(), a_root(), fleet="farm") == RECORD


@pytest.mark.parametrize("expected", [{"device": "pi-2"}, {"fleet": "mill"}])
def test_record_of_another_device_or_fleet_is_refused(expected):
    """Though its signature is right."""
    assert refusal(signed(), **expected) == "signature-invalid"


def test_signatures_of_other_keys_or_records_are_refused():
    """A thief's key; none; and a right signature of another record."""
    assert refusal(signed(signers=SIGNERS[1:])) == "signature-invalid"
    assert refusal(signed(signers=[])) == "signature-invalid"
    other = msgspec.json.decode(signed(msgspec.structs.replace(RECORD, version=4)))
    swapped = msgspec.json.decode(signed()) | {"signatures": other["signatures"]}
    assert refusal(msgspec.json.encode(swapped)) == "signature-invalid"


def test_threshold_of_two_keys_needs_both():
    """One signature twice counts once; a third key's is ignored."""
    root = a_root(2, threshold=2)
    assert refusal(signed(signers=SIGNERS[:1]), root) == "signature-invalid"
    assert refusal(signed(signers=SIGNERS[:1] * 2), root) == "signature-invalid"
    assert refusal(signed(signers=[SIGNERS[0], SIGNERS[2]]), root) == "signature-invalid"
    assert records.verified(signed(signers=SIGNERS), root, fleet="farm", device="pi-1") == RECORD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 5000,
        signed()[:-9],
        signed().replace(b"edgeml-device", b"targets"),
        signed().replace(b'"version":3', b'"version":0'),
        signed().replace(b'"version":3', b'"version":9007199254740992'),
        signed().replace(b'"labels"', b'"more":1,"labels"'),
        signed().replace(b'"pi-1"', b'"../pi"'),
        signed().replace(b'"g"', b'"../g"'),
        signed(msgspec.structs.replace(RECORD, labels={f"k{number}": "v" * 60 for number in range(120)})),
    ],
)
def test_malformed_records_are_refused(data):
    """Too long, cut, of another type, or with nonsense in them."""
    assert refusal(data) == "document-format"


def test_record_expires():
    """Its time is the device's, which never goes back."""
    records.check_usable(RECORD, NOW)
    with pytest.raises(RejectedError) as caught:
        records.check_usable(RECORD, NOW + timedelta(seconds=1))
    assert caught.value.code == "trust-expired"


def test_metadata_is_no_record_and_a_record_no_metadata():
    """The same keys sign both."""
    targets = Metadata(Targets())
    targets.sign(SIGNERS[0])
    assert refusal(targets.to_bytes()) == "document-format"
    with pytest.raises(DeserializationError):
        Metadata.from_bytes(signed())


def test_record_of_an_ordinary_device_is_small():
    """One message of a relabelling."""
    assert len(signed()) < 450


def test_records_of_a_file_are_found_by_device():
    """One a line, also beside a damaged one; an id that only occurs in a label isn't a device."""
    other = msgspec.structs.replace(RECORD, device="pi-2", labels={"device": "pi-1"})
    file = b"\n".join([b"damaged", signed(other), signed()])
    assert records.find(file, "pi-1") == signed()
    assert records.find(file, "pi-2") == signed(other)
    assert records.find(file, "pi-3") is None
    assert records.file_of("pi-1") in records.file_names()


def test_records_of_a_site_travel_together():
    """As many as a relay may have devices, in a message of bounded size."""
    lines = [signed(msgspec.structs.replace(RECORD, device=f"pi-{number}")) for number in range(50)]
    packed = records.pack_site(lines)
    assert records.unpack_site(packed) == lines
    assert len(packed) < 0.5 * sum(map(len, lines))


@pytest.mark.parametrize(
    "data",
    [b"", b"x", records.pack_site([bytes(records.SITE_MAX_BYTES + 1)]), records.pack_site([signed()])[:-5]],
    ids=["empty", "garbage", "too-long", "cut"],
)
def test_malformed_messages_of_a_site_are_refused(data):
    """Without an allocation of the size that they claim."""
    with pytest.raises(RejectedError) as caught:
        records.unpack_site(data)
    assert caught.value.code == "document-format"

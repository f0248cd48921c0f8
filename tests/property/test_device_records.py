"""Devices' records hold for every input: no changed byte gets through, and no device goes back to an older record."""

import contextlib
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.records import OwnRecord
from edgeml_core import records
from edgeml_core.errors import EdgemlError, RejectedError
from edgeml_core.records import DeviceRecord, KeySignature, SignedRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNERS = [CryptoSigner.generate_ed25519() for _ in range(3)]
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
RECORDS = st.builds(
    DeviceRecord,
    fleet=NAMES,
    device=NAMES,
    version=st.integers(1, 2**53 - 1),
    labels=st.dictionaries(NAMES, st.text(max_size=20), max_size=4),
    groups=st.lists(NAMES, max_size=2).map(tuple),
    revoked=st.booleans(),
    expires=st.datetimes(timezones=st.just(UTC)),
)


def root_of(keys, threshold=1):
    """A root that trusts some of the keys for targets."""
    root = Root(consistent_snapshot=True)
    for key in keys:
        root.add_key(SIGNERS[key].public_key, Targets.type)
    root.roles[Targets.type].threshold = threshold
    return root


def signed(record, keys):
    """A record that some of the keys have signed, encoded."""
    found = [SIGNERS[key].sign(records.payload(record)) for key in keys]
    signatures = tuple(KeySignature(keyid=it.keyid, sig=it.signature) for it in found)
    return records.encode(SignedRecord(signed=record, signatures=signatures))


def read(reading):
    """The record that is read, or the code of the error."""
    try:
        return reading()
    except EdgemlError as error:
        return error.code


RECORD = DeviceRecord(
    fleet="farm", device="pi-1", version=7, labels={"site": "barn"}, groups=("g",), revoked=True, expires=NOW
)
LINE, ROOT = signed(RECORD, [0]), root_of([0])


@given(st.integers(0, len(LINE) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_flipped_byte_of_a_record_is_refused_or_changes_nothing(at, flip):
    """Signatures cover all that is decoded."""
    line = bytearray(LINE)
    line[at] ^= flip
    with contextlib.suppress(RejectedError):
        assert records.verified(bytes(line), ROOT, fleet="farm") == RECORD


@given(RECORDS, st.sets(st.integers(0, 2)), st.sets(st.integers(0, 2), min_size=1), st.integers(1, 3))
@settings(max_examples=60)
def test_record_counts_where_enough_trusted_keys_have_signed_it(record, signing, trusted, threshold):
    """The number of keys in both sets decides."""
    outcome = read(lambda: records.verified(signed(record, signing), root_of(trusted, threshold), fleet=record.fleet))
    assert outcome == (record if len(signing & trusted) >= threshold else "signature-invalid")


OFFERS = st.lists(
    st.tuples(st.integers(1, 5), st.booleans(), st.sampled_from(("pi-1", "pi-2")), st.integers(0, 1)), max_size=8
)


@given(OFFERS)
@settings(max_examples=60)
def test_device_never_goes_back_whatever_is_offered(tmp_path_factory, offers):
    """The newest right one that it has seen is the one that it acts on, also after a restart before each look."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "trusted").mkdir()

    class Source:
        offered = None

        def record(self, _):
            return self.offered

    source, seen = Source(), None
    device = DeviceSettings(id="pi-1", fleet="farm")
    for version, is_early, name, key in offers:
        labels = {"ring": "early"} if is_early else {}
        record = DeviceRecord(fleet="farm", device=name, version=version, labels=labels, expires=NOW)
        source.offered = signed(record, [key])
        if name != "pi-1" or key != 0:
            expected = "signature-invalid"
        elif seen is None or version > seen.version or record == seen:
            expected = seen = record
        else:
            expected = "rollback-attempt"
        assert read(lambda: OwnRecord(folder, folder, source, device, lambda: NOW).newest(root_of([0]))) == expected
        source.offered = None
        if seen is not None:
            assert OwnRecord(folder, folder, source, device, lambda: NOW).newest(root_of([0])) == seen

"""The record that a device keeps: the newest it has seen, by the keys that it trusts now."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.records import OwnRecord
from edgeml_core import records
from edgeml_core.errors import EdgemlError
from edgeml_core.records import DeviceRecord, KeySignature, SignedRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()


def root_of(*signers):
    """A root that trusts these keys for targets."""
    root = Root(consistent_snapshot=True)
    for signer in signers:
        root.add_key(signer.public_key, Targets.type)
    return root


def signed(version, *signers, **changes):
    """An encoded record of board-1."""
    fields = {"fleet": "farm", "device": "board-1", "version": version, "labels": {}, "expires": NOW} | changes
    record = DeviceRecord(**fields)
    found = [signer.sign(records.payload(record)) for signer in signers or (OLD,)]
    signatures = tuple(KeySignature(keyid=it.keyid, sig=it.signature) for it in found)
    return records.encode(SignedRecord(signed=record, signatures=signatures))


class Source:
    """Offers one record."""

    def __init__(self):
        self.offered = None

    def record(self, _):
        """See `TrustSource.record`."""
        return self.offered


@pytest.fixture
def device(tmp_path):
    """A device that was enrolled with its record 1; it looks at what is offered."""
    source = Source()
    (tmp_path / "store" / "trusted").mkdir(parents=True)
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "record.json").write_bytes(signed(1))

    def look(offered, root=None, now=NOW):
        source.offered = offered
        settings = DeviceSettings(id="board-1", fleet="farm")
        try:
            return (
                OwnRecord(tmp_path / "trust", tmp_path / "store", source, settings, lambda: now)
                .newest(root or root_of(OLD))
                .version
            )
        except EdgemlError as error:
            return error.code

    return look


def test_first_record_counts_until_another_one_comes(device):
    """A board that never sees a broker is used by its stick; a source without records changes nothing."""
    assert device(None) == 1
    assert device(signed(2)) == 2
    assert device(None) == 2


def test_older_record_is_refused_also_after_a_restart(device):
    """Each look here is one; so is another content under the same number."""
    assert device(signed(3)) == 3
    assert device(signed(2)) == "rollback-attempt"
    assert device(signed(3, labels={"site": "x"})) == "rollback-attempt"
    assert device(signed(3)) == 3
    assert device(signed(4, revoked=True)) == "device-revoked"
    assert device(signed(3)) == "rollback-attempt"
    assert device(None) == "device-revoked"
    assert device(signed(5)) == 5


def test_record_of_the_folder_is_as_good_as_one_that_was_seen(device, tmp_path):
    """A board's successor has the newest in its folder; the broker may still have the revoked one before it."""
    (tmp_path / "trust" / "record.json").write_bytes(signed(5))
    assert device(signed(4, revoked=True)) == "rollback-attempt"
    assert device(signed(5)) == device(None) == 5


def test_foreign_records_are_refused_and_leave_the_kept_one(device):
    """Of another device, of other keys, of nothing."""
    assert device(signed(2)) == 2
    assert device(signed(9, device="board-2")) == "signature-invalid"
    assert device(signed(9, fleet="mill")) == "signature-invalid"
    assert device(signed(9, NEW)) == "signature-invalid"
    assert device(b"garbage") == "document-format"
    assert device(None) == 2


def test_device_without_a_record_has_none(device, tmp_path):
    """It was enrolled in no fleet that it knows."""
    (tmp_path / "trust" / "record.json").unlink()
    assert device(None) == "record-missing"
    (tmp_path / "trust" / "record.json").write_bytes(signed(1, NEW))
    assert device(None) == "signature-invalid"


def test_record_is_synced_before_it_counts_and_once(device, monkeypatch):
    """After a power cut the device would take an older one otherwise."""
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert device(signed(2)) == 2
    assert synced
    synced.clear()
    assert device(signed(2)) == 2
    assert not synced


def test_record_that_can_t_be_stored_doesn_t_count(device, tmp_path):
    """A full or failing disk costs the change, which is looked at again."""
    (tmp_path / "store" / "trusted").rmdir()
    assert device(signed(2)) == "store-failed"
    assert device(None) == 1


def test_record_follows_a_change_of_keys(device):
    """Signed by both, then by the new one; before the host's new signature arrives, the device only waits."""
    assert device(signed(2)) == 2
    assert device(signed(2), root_of(NEW)) == device(None, root_of(NEW)) == "trust-unavailable"
    assert device(signed(2, OLD, NEW), root_of(NEW)) == 2
    assert device(signed(2, NEW), root_of(NEW)) == 2
    assert device(signed(1), root_of(NEW)) == "signature-invalid"
    assert device(None, root_of(NEW)) == 2


def test_expired_record_gets_nothing_and_is_no_way_back(device):
    """A broker that holds back the next one costs the device its updates, and the operator sees why."""
    later = NOW + timedelta(days=1)
    assert device(signed(2), now=later) == device(None, now=later) == "trust-expired"
    assert device(signed(1, expires=later), now=later) == "rollback-attempt"
    assert device(signed(3, expires=later), now=later) == 3


def test_far_version_of_a_stolen_key_ends_with_the_key(device):
    """Else a thief could keep the owner's records away for good."""
    assert device(signed(2**52)) == 2**52
    assert device(signed(3)) == "rollback-attempt"
    assert device(signed(3, NEW), root_of(NEW)) == 3
    assert device(signed(2**52), root_of(NEW)) == "signature-invalid"

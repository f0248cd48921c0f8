"""The attacks of an attacker who owns the broker, each with the code that refuses it; `attacked_fleet` runs them.

The attacker keeps all messages, and changes, withholds, repeats and invents the messages that devices receive. An
attack's name says where the attacker has a key of the owner.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import zstandard

from edgeml import Repository, repository
from edgeml.repository import NewKeys
from edgeml.repository.deployments import deploy
from edgeml.repository.layout import opened, utc_now
from edgeml_core import multi_chunk, records
from edgeml_core.trust import FLEET, NEWEST_ROOT_FILE, RELEASES
from faults.attacked_fleet import TOPICS, AttackedFleet, newest
from faults.fleet import FLEET as FLEET_NAME
from faults.fleet import MODEL, until
from faults.mitm import Frame, Meddle, honest

TIMESTAMP: Final = TOPICS.trust(FLEET, "metadata/timestamp.json")
DOCUMENT: Final = TOPICS.trust(FLEET, "targets/")
MANIFEST: Final = TOPICS.trust(RELEASES, "targets/")
CHUNK: Final = TOPICS.chunk("")
_A_MIB: Final = 1024**2
_EXPIRED: Final = timedelta(days=40)


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        code: of the device's refusal.
        begin: prepares the attack before a version is deployed, and returns the function that changes each packet.
        deploy: deploys that version, as the owner or as an attacker with a key.
    """

    name: str
    code: str
    begin: Callable[[AttackedFleet], Meddle]
    deploy: Callable[[AttackedFleet, str], None] = lambda stage, version: stage.made.deploy(version)


def _changed(prefix: str, change: Callable[[bytes], bytes]) -> Callable[[AttackedFleet], Meddle]:
    """Change the payloads on topics with a prefix."""

    def meddle(frame: Frame) -> list[Frame]:
        return (
            [frame.but(payload=change(frame.payload))] if frame.payload and frame.topic.startswith(prefix) else [frame]
        )

    return lambda _: meddle


def _replayed(repo: str, role: str) -> Callable[[AttackedFleet], Meddle]:
    """Send old metadata of a role under the name of the current one."""

    def begin(stage: AttackedFleet) -> Meddle:
        old = stage.kept[f"{repo}/{role}"]
        return lambda frame: [frame.but(payload=old)] if _is(frame.topic, repo, role) and frame.payload else [frame]

    return begin


def _of_the_other_repository(stage: AttackedFleet) -> Meddle:
    """Send the releases' timestamp and snapshot, validly signed and of higher versions, in place of the fleet's."""
    owners = opened(stage.made.repo)
    for _ in range(20):
        owners.releases.refresh(utc_now())

    def meddle(frame: Frame) -> list[Frame]:
        for role in ("timestamp", "snapshot"):
            if _is(frame.topic, FLEET, role):
                return [frame.but(payload=newest(stage.made.repo, RELEASES, role))]
        return [frame]

    return meddle


def _of_unknown_keys(stage: AttackedFleet) -> Meddle:
    """Send a repository signed with unknown keys, which deploys the attacker's model."""
    folder = stage.made.folder / f"forged-{secrets.token_hex(4)}"
    repository.init(folder, fleet=FLEET_NAME)
    repository.enroll(folder, stage.made.device.name, labels={}, broker_url=None, out_dir=folder / "device")
    repository.publish(folder, [stage.made.bundle()[1]])
    deploy(folder, MODEL, selector="")
    return lambda frame: (
        [
            frame.but(payload=newest(folder, repo, role))
            for repo in (FLEET, RELEASES)
            for role in ("timestamp", "snapshot", "targets")
            if _is(frame.topic, repo, role)
        ]
        or [frame]
    )


def _with_a_root_of_his_own(stage: AttackedFleet) -> Meddle:
    """Send a next root that only the attacker signed."""
    folder = stage.made.folder / f"usurper-{secrets.token_hex(4)}"
    repository.init(folder, fleet=FLEET_NAME)
    repository.rotate(folder, "fleet", NewKeys())
    stage.plant({TOPICS.trust(FLEET, NEWEST_ROOT_FILE): newest(folder, FLEET, "root")})
    return honest


def _with_its_older_record(stage: AttackedFleet) -> Meddle:
    """Send the device's record of before its newest labels, which the device has seen."""
    device = stage.made.device
    old = opened(stage.made.repo).records.encoded([device.name])[device.name]
    changed = Repository.open(stage.made.repo).relabel(device.name, {"ring": secrets.token_hex(4)})
    kept = device.folder / "store" / "trusted" / records.RECORD_FILE
    until(lambda: f'"version":{changed.version}' in kept.read_text(), "the new labels")
    stage.plant({TOPICS.record(device.name): old})
    return honest


def _with_a_record_of_another(stage: AttackedFleet) -> Meddle:
    """Send the record of another device, which the fleet's key has signed."""
    other = f"other-{secrets.token_hex(4)}"
    repository.enroll(stage.made.repo, other, labels={}, broker_url=None, out_dir=stage.made.folder / other)
    line = opened(stage.made.repo).records.encoded([other])[other]
    stage.plant({TOPICS.record(stage.made.device.name): line})
    return honest


def _with_a_relabelled_record(stage: AttackedFleet) -> Meddle:
    """Send the device's record with other labels, and the signature of the right ones."""
    name = stage.made.device.name
    record = json.loads(opened(stage.made.repo).records.encoded([name])[name])
    record["signed"]["labels"] = {"ring": "mine"}
    stage.plant({TOPICS.record(name): json.dumps(record).encode()})
    return honest


def _signed_long_ago(stage: AttackedFleet, version: str) -> None:
    """Deploy with metadata signed long ago, as an attacker does that withheld it until now."""
    deploy(stage.made.repo, MODEL, version, selector="", now=datetime.now(UTC) - _EXPIRED)


def _unsigned(payload: bytes) -> bytes:
    return json.dumps(json.loads(payload) | {"signatures": []}).encode()


def _fast_forwarded(payload: bytes) -> bytes:
    metadata = json.loads(payload)
    metadata["signed"]["version"] += 1_000_000
    return json.dumps(metadata).encode()


def _flipped(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


def _bomb(_: bytes) -> bytes:
    return b"\x01" + zstandard.ZstdCompressor(level=19).compress(bytes(64 * _A_MIB))


def _difference_bomb(_: bytes) -> bytes:
    """Make a delta of two frames that unpack to 64 MiB each."""
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(64 * _A_MIB))
    return b"\x02" + len(frame).to_bytes(2) + frame + frame


def _forged_entries(_: AttackedFleet) -> Meddle:
    """Send several chunks in place of one: the key twice, wrong both times, and entries that were never requested."""

    def meddle(frame: Frame) -> list[Frame]:
        if not (frame.payload and frame.topic.startswith(CHUNK)):
            return [frame]
        key = frame.topic.removeprefix(CHUNK)
        others = [(f"{number:032x}", b"\x00") for number in range(2000)]
        return [frame.but(payload=multi_chunk.join([(key, b"\x00first"), *others, (key, b"\x00last")]))]

    return meddle


def _naming_another_manifest(stage: AttackedFleet, version: str) -> None:
    """Deploy with the online fleet key an existing version with content that was never released."""
    # The owner doesn't deploy it before: the device might have that version already.
    release = opened(stage.made.repo)
    document = release.document()
    forged = tuple(
        msgspec.structs.replace(wanted, manifest_sha256=secrets.token_hex(32))
        for wanted in document.deployments[-1].bundles
    )
    deployment = msgspec.structs.replace(document.deployments[-1], id="forged", version=version, bundles=forged)
    with release.locked():
        release.write_document(
            msgspec.structs.replace(document, deployments=(*document.deployments, deployment)), utc_now()
        )


def _is(topic: str, repo: str, role: str) -> bool:
    return topic.startswith(TOPICS.trust(repo, f"metadata/{role}.json"))


def _stale_chunks(stage: AttackedFleet) -> Meddle:
    """Send chunks of the version that serves in place of the new one's."""
    folder = stage.made.repo / "chunks"
    old = max((path.read_bytes() for path in folder.rglob("*") if path.is_file()), key=len)
    return _changed(CHUNK, lambda _: old)(stage)


ATTACKS: Final = (
    # what is signed
    Attack("rollback of the timestamp", "rollback-attempt", _replayed(FLEET, "timestamp")),
    Attack("rollback of the snapshot", "rollback-attempt", _replayed(FLEET, "snapshot")),
    Attack("rollback of the fleet document", "rollback-attempt", _replayed(FLEET, "targets")),
    Attack("rollback of the releases", "rollback-attempt", _replayed(RELEASES, "targets")),
    Attack("rollback of a device's record", "rollback-attempt", _with_its_older_record),
    Attack("the record of another device", "signature-invalid", _with_a_record_of_another),
    Attack("labels that nobody signed", "signature-invalid", _with_a_relabelled_record),
    Attack("freeze until it has expired", "trust-expired", lambda _: honest, _signed_long_ago),
    Attack("mix and match of two repositories", "signature-invalid", _of_the_other_repository),
    Attack("repositories of unknown keys", "signature-invalid", _of_unknown_keys),
    Attack("a root of his own", "signature-invalid", _with_a_root_of_his_own),
    Attack("signatures taken off", "signature-invalid", _changed(TIMESTAMP, _unsigned)),
    Attack("fast forward of the version", "signature-invalid", _changed(TIMESTAMP, _fast_forwarded)),
    Attack("garbage for metadata", "document-format", _changed(TIMESTAMP, lambda _: secrets.token_bytes(500))),
    Attack("deeply nested metadata", "document-format", _changed(TIMESTAMP, lambda _: b"[" * 16_000)),
    Attack("endless metadata", "digest-mismatch", _changed(TIMESTAMP, lambda _: bytes(6 * _A_MIB))),
    Attack("another fleet document", "digest-mismatch", _changed(DOCUMENT, _flipped)),
    Attack("a longer fleet document", "digest-mismatch", _changed(DOCUMENT, lambda payload: payload + b" ")),
    Attack("another manifest", "digest-mismatch", _changed(MANIFEST, _flipped)),
    Attack("a shorter manifest", "digest-mismatch", _changed(MANIFEST, lambda payload: payload[:-1])),
    Attack(
        "a manifest that nobody released, by the fleet key",
        "digest-mismatch",
        lambda _: honest,
        _naming_another_manifest,
    ),
    # chunks
    Attack("flipped bits in chunks", "digest-mismatch", _changed(CHUNK, _flipped)),
    Attack("chunks of another version", "digest-mismatch", _stale_chunks),
    Attack("truncated chunks", "digest-mismatch", _changed(CHUNK, lambda payload: payload[: len(payload) // 2])),
    Attack("oversized chunks", "digest-mismatch", _changed(CHUNK, lambda payload: b"\x00" + bytes(4 * _A_MIB))),
    Attack("compressed bombs for chunks", "digest-mismatch", _changed(CHUNK, _bomb)),
    Attack(
        "differences between other chunks", "digest-mismatch", _changed(CHUNK, lambda payload: b"\x02" + payload[1:])
    ),
    Attack("bombs for differences", "digest-mismatch", _changed(CHUNK, _difference_bomb)),
    Attack("several answers, forged", "digest-mismatch", _forged_entries),
    Attack(
        "several answers, cut short", "digest-mismatch", _changed(CHUNK, lambda _: b"\x10" + bytes(9) + b"\xff" * 20)
    ),
    Attack("chunks of an unknown codec", "digest-mismatch", _changed(CHUNK, lambda payload: b"\xff" + payload[1:])),
)

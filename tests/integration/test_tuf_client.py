"""The agent's verifier against hostile repositories over HTTP, case by case of the TUF specification, 5.3 to 5.7.

Driven through `tests/support/tuf_client.py`, the interface of the public conformance suite.
"""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from support import tuf_client

ROLES = ("root", "timestamp", "snapshot", "targets")
FUTURE = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
PAST = FUTURE - timedelta(days=60)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was asked for."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        """Answer, to a client that may hang up when it is too much."""
        self.asked.append(self.path.rpartition("/")[2])
        with contextlib.suppress(ConnectionError):
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Publisher:
    """A repository whose owner, or whoever took its place, can sign and publish anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("metadata", "targets"):
            (folder / name).mkdir(parents=True)
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in ROLES}
        self.root = Root(consistent_snapshot=True, expires=FUTURE)
        self.timestamp, self.snapshot = Timestamp(expires=FUTURE), Snapshot(expires=FUTURE)
        self.targets = Targets(expires=FUTURE)
        for role in ROLES:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.publish_root()
        self.publish()

    def signed(self, of: Root | Timestamp | Snapshot | Targets) -> bytes:
        """A role's metadata, signed by its keys."""
        metadata = Metadata(copy.deepcopy(of))
        for signer in self.signers[of.type]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=True))

    def write(self, name: str, data: bytes) -> None:
        """Put a file of metadata there."""
        (self.folder / "metadata" / name).write_bytes(data)

    def publish_root(self) -> None:
        """The root as it is now, under its version."""
        self.write(f"{self.root.version}.root.json", self.signed(self.root))

    def publish(self) -> None:
        """Everything but the root, as it is now."""
        self.write(f"{self.targets.version}.targets.json", self.signed(self.targets))
        self.write(f"{self.snapshot.version}.snapshot.json", self.signed(self.snapshot))
        self.write("timestamp.json", self.signed(self.timestamp))

    def bump(self) -> None:
        """The next version of everything but the root."""
        self.targets.version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.snapshot.meta["targets.json"] = MetaFile(self.targets.version)
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.publish()

    def add_target(self, path: str, content: bytes) -> Path:
        """List a target and put its content there; its file."""
        target = TargetFile.from_data(path, content, ["sha256"])
        self.targets.targets[path] = target
        folder, _, name = path.rpartition("/")
        file = self.folder / "targets" / folder / f"{target.hashes['sha256']}.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.bump()
        return file

    def change_key(self, role: str, count: int = 1, threshold: int = 1) -> list[CryptoSigner]:
        """Other keys for a role, in a root that isn't published yet; the keys before."""
        before, self.signers[role] = self.signers[role], [CryptoSigner.generate_ed25519() for _ in range(count)]
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold
        self.root.version += 1
        return before


class Client:
    """A client in its own folder."""

    def __init__(self, folder: Path, url: str, root: bytes) -> None:
        self.metadata, self.targets, self._url = folder / "metadata", folder / "targets", url
        for made in (self.metadata, self.targets):
            made.mkdir(parents=True)
        (folder / "root.json").write_bytes(root)
        assert self.runs(["--metadata-dir", str(self.metadata), "init", str(folder / "root.json")])

    def arguments(self, command: str, *targets: str) -> list[str]:
        """The command line of a command."""
        where = ["--metadata-dir", str(self.metadata), "--metadata-url", f"{self._url}/metadata"]
        what = ["--target-base-url", f"{self._url}/targets", "--target-dir", str(self.targets)]
        return [*where, *what, *(it for target in targets for it in ("--target-name", target)), command]

    def runs(self, arguments: list[str]) -> bool:
        """Whether a command succeeded; after each one the suite takes every JSON file for a trusted role."""
        code = tuf_client.main(arguments)
        assert {path.stem for path in self.metadata.glob("*.json")} <= set(ROLES)
        return code == 0

    def refresh(self) -> bool:
        """Whether a refresh succeeded."""
        return self.runs(self.arguments("refresh"))

    def download(self, target: str) -> bytes | None:
        """A target's content; None when it was refused."""
        if not self.runs(self.arguments("download", target)):
            return None
        (file,) = self.targets.iterdir()
        return file.read_bytes()

    def versions(self) -> dict[str, int]:
        """What it trusts."""
        found = {role: self.metadata / f"{role}.json" for role in ROLES}
        return {
            role: Metadata.from_bytes(path.read_bytes()).signed.version
            for role, path in found.items()
            if path.is_file()
        }


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "repository")


@pytest.fixture
def make_client(publisher: Publisher, tmp_path: Path):
    """Makes clients that trust the first root, or another; the server notes what they ask for."""
    handler = type("Noting", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(publisher.folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    first = (publisher.folder / "metadata" / "1.root.json").read_bytes()

    def make(root: bytes = first) -> Client:
        made = Client(tmp_path / f"client-{len(list(tmp_path.glob('client-*')))}", address, root)
        made.asked = handler.asked
        return made

    address = f"http://127.0.0.1:{server.server_address[1]}"
    yield make
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(make_client) -> Client:
    """A client that has seen version 1 of everything."""
    made = make_client()
    assert made.refresh()
    made.asked.clear()
    return made


def test_it_is_a_program(make_client):
    """As a suite would start it: exit code 0, and 1 with the code on stderr."""
    client = make_client()
    command = [sys.executable, tuf_client.__file__]
    assert subprocess.run([*command, *client.arguments("refresh")], check=False).returncode == 0
    (client.metadata / "judged" / "current").unlink()
    (client.metadata / tuf_client.ANCHOR).write_bytes(b"{}")
    refused = subprocess.run([*command, *client.arguments("refresh")], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr[:23]) == (1, "error[document-format]:")


def test_several_targets_are_downloaded_by_one_command(publisher: Publisher, make_client):
    """Each is named by an option of its own."""
    for name in ("one", "two"):
        publisher.add_target(name, name.encode())
    client = make_client()
    assert client.runs(client.arguments("download", "one", "two"))
    assert {path.name: path.read_text() for path in client.targets.iterdir()} == {"one": "one", "two": "two"}


def test_tests_of_delegations_are_expected_to_fail():
    """The suite reads the names beside the program."""
    lines = Path(f"{tuf_client.__file__}.xfails").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert len(names) == len(set(names)) == 22
    assert all(name.startswith("test_") for name in names)


def test_a_refresh_asks_for_what_it_lacks(client: Client):
    """Only the next root and the timestamp, when nothing is new."""
    assert client.versions() == dict.fromkeys(ROLES, 1)
    assert client.refresh()
    assert client.asked == ["2.root.json", "timestamp.json"]


def test_everything_new_is_taken(client: Client, publisher: Publisher):
    """Each role's new version."""
    publisher.bump()
    assert client.refresh()
    assert client.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


@pytest.mark.parametrize(
    "change", [lambda root: root.replace(b'"sig":"', b'"sig":"00', 1), lambda root: root[:-20], lambda _: b"{}"]
)
def test_a_bad_first_root_is_refused_before_anything_is_asked_for(make_client, publisher: Publisher, change):
    """Wrongly signed, cut short, something else."""
    client = make_client(change((publisher.folder / "metadata" / "1.root.json").read_bytes()))
    assert not client.refresh()
    assert client.asked == []


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_of_an_unknown_key_is_refused(client: Client, publisher: Publisher, role: str):
    """Whichever role's; what came before it in the order is kept."""
    publisher.signers[role] = [CryptoSigner.generate_ed25519()]
    publisher.bump()
    before = ROLES[: ROLES.index(role)]
    assert not client.refresh()
    assert client.versions() == {"root": 1} | {it: 2 if it in before else 1 for it in ROLES[1:]}


@pytest.mark.parametrize("role", ROLES)
def test_expired_metadata_is_refused(client: Client, publisher: Publisher, role: str):
    """Whichever role's."""
    getattr(publisher, role).expires = PAST
    publisher.root.version += 1
    publisher.publish_root()
    publisher.bump()
    assert not client.refresh()


def test_an_expired_root_on_the_way_to_a_good_one_is_passed(client: Client, publisher: Publisher):
    """Only the last must be fresh."""
    for expires in (PAST, FUTURE):
        publisher.root.expires = expires
        publisher.root.version += 1
        publisher.publish_root()
    assert client.refresh()
    assert client.versions()["root"] == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_older_metadata_is_refused(client: Client, publisher: Publisher, role: str):
    """A version before the one seen, though newly signed: what was trusted stays."""
    publisher.bump()
    assert client.refresh()
    match role:
        case "timestamp":
            publisher.timestamp.version -= 1
        case "snapshot":
            publisher.snapshot.version = publisher.timestamp.snapshot_meta.version = 1
            publisher.timestamp.version += 1
        case "targets":
            publisher.targets.version = publisher.snapshot.meta["targets.json"].version = 1
            publisher.snapshot.version += 1
            publisher.timestamp.snapshot_meta.version = publisher.snapshot.version
            publisher.timestamp.version += 1
    publisher.publish()
    assert not client.refresh()
    assert client.versions()["targets"] == 2


def test_other_content_under_the_same_version_is_not_taken(client: Client, publisher: Publisher):
    """A timestamp that names another snapshot, with the version it had."""
    publisher.timestamp.snapshot_meta = MetaFile(100)
    publisher.publish()
    client.refresh()
    kept = Metadata.from_bytes((client.metadata / "timestamp.json").read_bytes())
    assert kept.signed.snapshot_meta.version == 1


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_mix_of_versions_is_refused(client: Client, publisher: Publisher, role: str):
    """A file that calls itself another version than the one that names it says."""
    publisher.bump()
    getattr(publisher, role).version = 7
    name = f"2.{role}.json"
    publisher.write(name, publisher.signed(getattr(publisher, role)))
    assert not client.refresh()


@pytest.mark.parametrize("field", ["length", "hashes"])
@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_length_or_digest_that_differs_is_refused(client: Client, publisher: Publisher, role: str, field: str):
    """Where the metadata that names a file gives them."""
    publisher.bump()
    data = publisher.signed(getattr(publisher, role))
    meta = MetaFile.from_data(2, data, ["sha256"])
    right = copy.deepcopy(meta)
    setattr(meta, field, 5 if field == "length" else {"sha256": "0" * 64})
    for given, accepted in ((meta, False), (right, True)):
        if role == "targets":
            publisher.snapshot.meta["targets.json"] = given
        else:
            publisher.timestamp.snapshot_meta = given
        publisher.timestamp.version += 1
        if role == "targets":
            publisher.snapshot.version += 1
            publisher.timestamp.snapshot_meta = MetaFile(publisher.snapshot.version)
        publisher.publish()
        assert client.refresh() is accepted


@pytest.mark.parametrize("role", ROLES)
def test_a_changed_key_is_followed_and_the_old_one_refused(client: Client, publisher: Publisher, role: str):
    """For any role; the root's new key counts once old and new have signed."""
    before = publisher.change_key(role)
    if role == "root":
        publisher.signers["root"] += before
    publisher.publish_root()
    publisher.bump()
    assert client.refresh()
    publisher.signers[role] = before
    publisher.root.version += 1
    publisher.publish_root()
    publisher.bump()
    assert not client.refresh()


def test_a_root_that_the_old_keys_did_not_sign_is_refused(client: Client, publisher: Publisher):
    """And one that only they signed, too."""
    before = publisher.change_key("root")
    for signers in (publisher.signers["root"], before):
        publisher.signers["root"] = signers
        publisher.publish_root()
        assert not client.refresh()
        assert client.versions()["root"] == 1


def test_a_root_under_another_version_is_refused(client: Client, publisher: Publisher):
    """The next one must be the next."""
    publisher.root.version = 3
    publisher.write("2.root.json", publisher.signed(publisher.root))
    assert not client.refresh()


@pytest.mark.parametrize(("signatures", "accepted"), [(1, False), (2, True), (3, True)])
def test_a_threshold_is_kept(client: Client, publisher: Publisher, signatures: int, accepted: bool):
    """Two of three."""
    publisher.change_key("targets", count=3, threshold=2)
    publisher.signers["targets"] = publisher.signers["targets"][:signatures]
    publisher.publish_root()
    publisher.bump()
    assert client.refresh() is accepted


def test_one_key_s_signature_twice_counts_once(client: Client, publisher: Publisher):
    """Under its own id, and under a second id that the metadata claims for it."""
    publisher.change_key("timestamp", count=2, threshold=2)
    publisher.publish_root()
    publisher.bump()
    assert client.refresh()
    publisher.timestamp.version += 1
    metadata = Metadata(copy.deepcopy(publisher.timestamp))
    signature = metadata.sign(publisher.signers["timestamp"][0])
    metadata.signatures["0" * 64] = signature
    publisher.write("timestamp.json", metadata.to_bytes())
    assert not client.refresh()


def test_a_thief_s_far_version_ends_with_the_stolen_key(client: Client, publisher: Publisher):
    """Versions run up to the end by a stolen key don't keep the rightful owner out."""
    publisher.timestamp.version = publisher.snapshot.version = 1_000_000
    publisher.timestamp.snapshot_meta = MetaFile(publisher.snapshot.version)
    publisher.publish()
    assert client.refresh()
    for role in ("timestamp", "snapshot"):
        publisher.change_key(role)
    publisher.root.version = 2
    publisher.publish_root()
    publisher.timestamp.version = publisher.snapshot.version = 5
    publisher.timestamp.snapshot_meta = MetaFile(publisher.snapshot.version)
    publisher.publish()
    assert client.refresh()
    assert client.versions()["timestamp"] == 5


@pytest.mark.parametrize("role", ROLES)
def test_data_without_end_is_cut_off(client: Client, publisher: Publisher, role: str):
    """More than a role may have is not even read."""
    publisher.bump()
    name = {"root": "2.root.json", "timestamp": "timestamp.json"}.get(role, f"2.{role}.json")
    with (publisher.folder / "metadata" / name).open("wb") as file:
        file.truncate(1 << 30)
    assert not client.refresh()


def test_fields_that_nobody_knows_are_kept_and_checked(client: Client, publisher: Publisher):
    """They are part of what was signed."""
    publisher.root.unrecognized_fields["custom"] = {"a": 1}
    publisher.root.version += 1
    publisher.publish_root()
    assert client.refresh()
    assert client.versions()["root"] == 2


def test_another_major_version_of_the_specification_is_refused(client: Client, publisher: Publisher):
    """It may mean anything."""
    publisher.bump()
    data = publisher.signed(publisher.timestamp).replace(b'"spec_version":"1.', b'"spec_version":"2.')
    publisher.write("timestamp.json", data)
    assert not client.refresh()


def test_what_was_seen_survives_a_server_that_is_gone(client: Client, publisher: Publisher):
    """A refresh fails then, and nothing is lost by it."""
    (publisher.folder / "metadata" / "timestamp.json").unlink()
    assert not client.refresh()
    assert client.versions() == dict.fromkeys(ROLES, 1)


def test_a_target_is_had_once(client: Client, publisher: Publisher):
    """Its content as signed; it isn't asked for again while it is right, and is when it changes."""
    publisher.add_target("folder/with name.txt", b"content")
    assert client.download("folder/with name.txt") == b"content"
    client.asked.clear()
    assert client.download("folder/with name.txt") == b"content"
    assert client.asked == ["2.root.json", "timestamp.json"]
    publisher.add_target("folder/with name.txt", b"other content")
    assert client.download("folder/with name.txt") == b"other content"


@pytest.mark.parametrize("content", [b"tampered", b"content and more", b"cont", b""])
def test_a_target_with_other_content_is_refused(client: Client, publisher: Publisher, content: bytes):
    """Of the same length, longer, shorter, empty."""
    publisher.add_target("file", b"original").write_bytes(content)
    assert client.download("file") is None
    assert list(client.targets.iterdir()) == []


def test_a_target_that_nobody_signed_is_refused(client: Client):
    """And the metadata is brought up to date all the same."""
    assert client.download("nothing") is None
    assert client.versions() == dict.fromkeys(ROLES, 1)

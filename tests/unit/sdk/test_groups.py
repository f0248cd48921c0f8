"""Releases that are encrypted for a group: keys, marks, ids and answers."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.fleet import snapshot
from edgeml.fleet.chunk_payloads import ChunkPayloads
from edgeml.repository.chunk_ids import Outgoing
from edgeml.repository.deployments import deploy
from edgeml_agent.offline.sources import FolderChunks
from edgeml_agent.trust.groups import GroupKeys
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.sealing import Seal
from support import samples

GROUP = "clinic"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repository.init(tmp_path / "repo", fleet="farm")
    return tmp_path / "repo"


def weights(version: str) -> bytes:
    """A file of one chunk; of two versions nearly the same."""
    return (bytes(range(256)) * 256)[: -len(version)] + version.encode()


def publish(repo: Path, version: str, group: str | None = GROUP) -> None:
    """Release a version."""
    content = samples.FILES | {"model.weights": weights(version)}
    entries = tuple(samples.bundle.describe(path, io.BytesIO(data)) for path, data in sorted(content.items()))
    path = repo.parent / f"{version}.edgeml"
    path.write_bytes(samples.a_bundle(samples.a_manifest(version=version, files=entries), content))
    repository.publish(repo, [path], group=group)


def seal(repo: Path, group: str = GROUP) -> Seal:
    """A group's key at work, as a device has it."""
    return GroupKeys(repo / "keys" / "groups").seal(group)


def digest(version: str) -> str:
    """The digest of the weights' chunk."""
    return chunks.sha256(weights(version))


def answers(repo: Path) -> ChunkPayloads:
    """The host's."""
    made = ChunkPayloads(repository.opened(repo).chunks)
    read = snapshot.read(repository.opened(repo))
    made.use(read.sealed, read.locations)
    return made


def test_a_group_has_one_key_that_only_its_owner_may_read(repo: Path, tmp_path: Path):
    """Made when it is first named, by publishing or enrolling; enrolling copies it."""
    for device in ("a", "b"):
        repository.enroll(repo, device, labels={}, broker_url=None, groups=[GROUP], out_dir=tmp_path / device)
    publish(repo, "1.0")
    files = [folder / f"{GROUP}.key" for folder in (repo / "keys/groups", tmp_path / "a/groups", tmp_path / "b/groups")]
    assert len({path.read_bytes() for path in files}) == 1
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_release_is_for_its_group_for_good(repo: Path):
    """Publishing it again keeps the group; for another one, or for one at last, it is refused."""
    publish(repo, "1.0")
    publish(repo, "1.0", group=None)
    publish(repo, "2.0", group=None)
    assert [it.group for it in repository.releases(repository.opened(repo))] == [GROUP, ""]
    for version, group in (("1.0", "other"), ("2.0", GROUP)):
        with pytest.raises(UsageError) as caught:
            publish(repo, version, group=group)
        assert caught.value.code == "release-exists"


def test_a_deployment_says_for_whom_its_bundles_are(repo: Path):
    """That is how a device knows which key to take."""
    publish(repo, "1.0")
    deployed = deploy(repo, "sample", "1.0", selector="")
    assert [bundle.group for bundle in deployed.deployment.bundles] == [GROUP]


def test_chunks_of_a_group_are_listed_by_sealed_ids_only(repo: Path):
    """What the manifest lists names nothing on the wire."""
    publish(repo, "1.0")
    (listed,) = snapshot.read(repository.opened(repo)).releases
    assert seal(repo).chunk_id(digest("1.0")) in listed.ids
    assert wire_keys.chunk_id(digest("1.0")) not in listed.ids


def test_answers_are_sealed_whole_or_as_differences(repo: Path):
    """Also the difference to a version before that was no secret."""
    publish(repo, "1.0", group=None)
    publish(repo, "2.0")
    ours = seal(repo)
    new, old = ours.chunk_id(digest("2.0")), ours.chunk_id(digest("1.0"))
    for key in (new, wire_keys.join(new, old)):
        payload = ours.open(answers(repo).wire(key), key)
        assert chunks.from_wire(payload, digest("2.0"), weights("1.0")) == weights("2.0")
    assert len(answers(repo).wire(wire_keys.join(new, old))) < len(answers(repo).wire(new))


@pytest.mark.parametrize("group", [None, "other"])
def test_no_difference_tells_others_of_a_groups_chunks(repo: Path, group: str | None):
    """What is for all, or for another group, is never sent as a difference to them."""
    publish(repo, "1.0")
    publish(repo, "2.0", group=group)
    name = seal(repo, group).chunk_id if group else wire_keys.chunk_id
    opened = repository.opened(repo)
    published = repository.releases(opened)
    assert name(digest("1.0")) not in Outgoing(published, opened.groups).ids(published[1])
    mixed = wire_keys.join(name(digest("2.0")), seal(repo).chunk_id(digest("1.0")))
    payload = answers(repo).wire(mixed)
    payload = seal(repo, group).open(payload, mixed) if group else payload
    assert chunks.from_wire(payload, digest("2.0")) == weights("2.0")


def test_a_stick_holds_a_groups_chunks_sealed(repo: Path, tmp_path: Path):
    """A device of the group takes them from it; damage is the stick's fault."""
    repository.enroll(repo, "a", labels={"site": "barn"}, broker_url=None, groups=[GROUP], out_dir=tmp_path / "a")
    publish(repo, "1.0")
    deploy(repo, "sample", "1.0", selector="")
    repository.export_site(repo, "barn", tmp_path / "stick")
    key = seal(repo).chunk_id(digest("1.0"))
    assert taken(tmp_path / "stick", key, seal(repo)) == weights("1.0")
    path = tmp_path / "stick" / "chunks" / key[:2] / key
    path.write_bytes(path.read_bytes()[:-30] + bytes(30))
    with pytest.raises(TransportError):
        taken(tmp_path / "stick", key, seal(repo))


def taken(stick: Path, key: str, ours: Seal) -> bytes:
    """The chunk that a device takes from a stick."""

    async def take() -> bytes:
        source = FolderChunks(stick)
        await source.want([key])
        arrival = await source.receive(0)
        assert arrival is not None
        return chunks.from_wire(ours.open(arrival.payload, arrival.key), digest("1.0"))

    return asyncio.run(take())


def test_without_the_key_neither_host_nor_device_goes_on(repo: Path, tmp_path: Path):
    """Each says which key is missing."""
    publish(repo, "1.0")
    (repo / "keys" / "groups" / f"{GROUP}.key").write_text("damaged")
    with pytest.raises(UsageError) as host:
        snapshot.read(repository.opened(repo))
    assert host.value.code == "repo-invalid"
    with pytest.raises(DeviceError) as device:
        GroupKeys(tmp_path).seal(GROUP)
    assert device.value.code == "group-key-missing"


def test_another_groups_key_opens_nothing(repo: Path):
    """A device of another group can't even name the chunks."""
    publish(repo, "1.0")
    repository.opened(repo).groups.make("other")
    key = seal(repo).chunk_id(digest("1.0"))
    with pytest.raises(RejectedError):
        seal(repo, "other").open(answers(repo).wire(key), key)

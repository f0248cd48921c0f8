"""The host's answers to wire keys."""

from pathlib import Path

import pytest

from edgeml.fleet.chunk_payloads import ChunkPayloads
from edgeml.repository.chunk_ids import Location
from edgeml.repository.store import ChunkStore, Folder
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError

OLD = bytes(range(256)) * 256
NEW = OLD[:100] + b"\x07" + OLD[101:]
OTHER = NEW[::-1]
OLD_ID, NEW_ID, OTHER_ID = (wire_keys.chunk_id(chunks.sha256(chunk)) for chunk in (OLD, NEW, OTHER))
KEY = wire_keys.join(NEW_ID, OLD_ID)
#: All three stand at one place of three versions.
PLACES = dict.fromkeys((OLD_ID, NEW_ID, OTHER_ID), Location("line", "model.onnx", 0))


def payloads(store: ChunkStore, **limits: int) -> ChunkPayloads:
    """The host's payloads."""
    answers = ChunkPayloads(store, **limits)
    answers.use({}, PLACES)
    return answers


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    """A store with three chunks."""
    store = ChunkStore(Folder(tmp_path))
    store.add([OLD, NEW, OTHER])
    return store


def test_a_chunk_is_answered_whole_and_to_its_base_by_the_difference(store: ChunkStore):
    """Both lead to the chunk."""
    answers = payloads(store)
    assert chunks.from_wire(answers.wire(NEW_ID), chunks.sha256(NEW)) == NEW
    difference = answers.wire(KEY)
    assert len(difference) < 50
    assert chunks.from_wire(difference, chunks.sha256(NEW), OLD) == NEW


def test_a_difference_is_made_once_while_there_is_room(store: ChunkStore, tmp_path: Path):
    """What was asked for last stays; what was pushed out is made anew, and can't be when its chunk is gone."""
    answers = payloads(store, cache_max_bytes=60)
    kept = answers.wire(KEY)
    (tmp_path / NEW_ID[:2] / NEW_ID).unlink()
    assert answers.wire(KEY) == kept
    answers.wire(wire_keys.join(OTHER_ID, OLD_ID))
    with pytest.raises(RejectedError):
        answers.wire(KEY)


def test_without_its_base_the_whole_chunk_is_answered(store: ChunkStore, tmp_path: Path):
    """A lost or damaged base costs bytes, not the update."""
    (tmp_path / OLD_ID[:2] / OLD_ID).write_bytes(b"\x00damaged")
    assert chunks.from_wire(payloads(store).wire(KEY), chunks.sha256(NEW), b"") == NEW


def test_a_delta_is_made_only_at_one_place_of_two_versions(store: ChunkStore):
    """Other pairs of chunks cost tens of ms and help no device: the whole chunk is the answer."""
    answers = ChunkPayloads(store)
    for other in (
        Location("line", "model.onnx", 1),
        Location("line", "labels.json", 0),
        Location("sheet", "model.onnx", 0),
    ):
        answers.use({}, PLACES | {OLD_ID: other})
        assert answers.wire(KEY) == answers.wire(NEW_ID)
    answers.use({}, PLACES)
    assert len(answers.wire(KEY)) < 50

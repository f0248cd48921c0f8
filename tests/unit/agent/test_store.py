"""What the agent remembers."""

import msgspec
import pytest

from edgeml_agent.store.database import ModelRecord, Store
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.lifecycle import State


@pytest.fixture
def store(tmp_path):
    """A store in a new folder."""
    return Store(tmp_path)


def wanted(digest, state=State.ACTIVE):
    """A model on the way to a release."""
    return ModelRecord(name="mood", state=state, deployment="d", version="1", wanted=digest)


def test_store_of_an_unknown_model_is_idle(store):
    """Asking for it writes nothing."""
    assert store.record("mood") == ModelRecord(name="mood")
    assert store.records() == {}


def test_store_after_a_restart_has_all_records(store, tmp_path):
    """Every field."""
    record = ModelRecord(name="m", state=State.REJECTED, deployment="d", version="1", wanted="w", code="c", message="t")
    store.save(record)
    assert Store(tmp_path).record("m") == record


def test_activation_keeps_the_release_before(store):
    """The third activation forgets the first."""
    for number, digest in enumerate(("a", "b", "c")):
        store.activate(wanted(digest), now=float(number))
    record = store.record("mood")
    assert (record.active, record.previous, record.activated_at) == ("c", "b", 2.0)


def test_activating_what_is_active_keeps_the_release_before(store):
    """Else a rollback would lead to the same release."""
    for digest in ("a", "b", "b"):
        store.activate(wanted(digest), now=1.0)
    assert store.record("mood").previous == "a"


def test_saving_an_update_leaves_what_serves(store):
    """Only activation and rollback change that."""
    store.activate(wanted("a"), now=1.0)
    store.save(msgspec.structs.replace(wanted("b"), state=State.FETCHING, active="x", previous="y"))
    assert (store.record("mood").active, store.record("mood").previous) == ("a", "")


def test_a_rollback_goes_back_once(store):
    """The release that was left is no previous one: there is nothing to go back to then."""
    store.activate(wanted("a"), now=1.0)
    store.activate(wanted("b"), now=2.0)
    record = store.roll_back("mood", "crash-loop", "why")
    assert (record.active, record.previous, record.state) == ("a", "", State.ROLLED_BACK)
    assert (record.code, record.message) == ("crash-loop", "why")
    with pytest.raises(UsageError, match="no previous version"):
        store.roll_back("mood", "", "")
    with pytest.raises(UsageError) as caught:
        store.roll_back("other", "", "")
    assert caught.value.code == "model-unknown"


def test_a_rollback_doesn_t_disturb_an_update_under_way(store):
    """It has another release in mind."""
    store.activate(wanted("a"), now=1.0)
    store.activate(wanted("b"), now=2.0)
    store.save(wanted("c", State.FETCHING))
    assert store.roll_back("mood", "", "").state is State.FETCHING


def test_refusals_are_remembered(store, tmp_path):
    """With their code."""
    store.refuse("a", "digest-mismatch", "why")
    assert Store(tmp_path).refusal("a") == ("digest-mismatch", "why")
    assert store.refusal("b") is None


def test_sessions_count_on_after_a_restart(store, tmp_path):
    """They distinguish a late will from a newer state."""
    assert [store.session(), store.next_session(), store.next_session()] == [0, 1, 2]
    assert Store(tmp_path).next_session() == 3


def test_a_run_is_clean_only_when_the_one_before_was_ended(store):
    """A crash leaves the mark of the run."""
    assert store.begin_run()
    assert not store.begin_run()
    store.end_run()
    assert store.begin_run()


def test_store_written_by_another_process_counts_a_change(store, tmp_path):
    """Own writes are not."""
    before = store.changes()
    store.next_session()
    assert store.changes() == before
    Store(tmp_path).next_session()
    assert store.changes() != before


def test_a_damaged_database_is_a_device_error(tmp_path):
    """Not a traceback of SQLite."""
    (tmp_path / "agent.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(DeviceError) as caught:
        Store(tmp_path)
    assert caught.value.code == "store-failed"

"""The tests' own cache: made once for each stamp, again after a failure, and by one process at a time."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def use(made, *sources):
    """Lend the folder `it` once, and return what lies in it."""

    def make(folder):
        made.append(folder)
        (folder / "content").write_text(f"{len(made)}")

    with cache.kept("it", make, sources) as folder:
        return (folder / "content").read_text()


def test_folder_is_made_once_for_each_stamp(tmp_path):
    """With changed sources it is made again; the one before stays."""
    made, source = [], tmp_path / "source"
    source.write_text("one")
    assert [use(made, source), use(made, source)] == ["1", "1"]
    source.write_text("two")
    assert use(made, source) == "2"
    source.write_text("one")
    assert use(made, source) == "1"


def test_folder_that_was_not_finished_is_made_again(place):
    """A failure on the way leaves no folder that is used."""

    def fail(folder):
        (folder / "content").write_text("half")
        raise OSError

    with pytest.raises(OSError), cache.kept("it", fail):
        pass
    assert use([]) == "1"


def test_folder_wanted_by_several_at_a_time_is_made_once():
    """The others wait, and find it."""
    made = []
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: use(made), range(4))) == ["1"] * 4
    assert len(made) == 1


def test_folder_unused_for_long_is_removed(place, tmp_path):
    """When another one of its name is made."""
    source = tmp_path / "source"
    source.write_text("one")
    use([], source)
    (lock,) = place.glob("it-*.lock")
    os.utime(lock, (0, 0))
    source.write_text("two")
    use([], source)
    assert not lock.with_suffix("").exists()
    assert len(list(place.glob("it-*.lock"))) == 1

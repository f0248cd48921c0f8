"""The rate at which memory is read, and the caches that it must exceed."""

import os

import pytest

from edgeml_runtime.bench import memory_bandwidth


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """A folder as Linux has it: two cores with caches of their own that share the last one, and two others as well."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for core in range(4):
        shared = "0-1" if core < 2 else "2-3"
        for index, (level, size, cores) in enumerate([(1, "48K", str(core)), (2, "1M", str(core)), (3, "32M", shared)]):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("size", size), ("shared_cpu_list", cores)):
                (folder / name).write_text(f"{text}\n")
    return tmp_path


def test_cache_bytes_are_of_the_last_level(cpus):
    """Each cache counts once, and only those of the cores that this process may use."""
    assert memory_bandwidth.cache_bytes(cpus) == 64 * 1024**2


def test_cache_bytes_of_some_cores(cpus, monkeypatch):
    """A process on two cores of four."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    assert memory_bandwidth.cache_bytes(cpus) == 32 * 1024**2


def test_cache_bytes_that_linux_does_not_name(cpus, tmp_path):
    """As in some virtual machines, and on boards whose kernel knows no sizes: nothing is measured there."""
    (cpus / "cpu1" / "cache" / "index2" / "size").unlink()
    assert memory_bandwidth.cache_bytes(cpus) == 0
    assert memory_bandwidth.cache_bytes(tmp_path / "absent") == 0


@pytest.mark.parametrize(("caches", "size_bytes"), [(0, 1 << 30), (1 << 20, (1 << 21) - 1)])
def test_measure_gives_no_rate_of_caches(caches, size_bytes, monkeypatch):
    """Unknown caches, and weights that they hold in large part."""
    monkeypatch.setattr(memory_bandwidth, "cache_bytes", lambda: caches)
    assert memory_bandwidth.measure(size_bytes, threads=1) is None


def test_measure_reads_some_caches_at_most(monkeypatch):
    """The buffer is as large as the weights up to four caches."""
    sizes = []
    monkeypatch.setattr(memory_bandwidth, "cache_bytes", lambda: 1000)
    monkeypatch.setattr(memory_bandwidth, "read_bytes_per_s", lambda size, **_: sizes.append(size) or 1)
    for size in (2000, 3000, 1_000_000):
        assert memory_bandwidth.measure(size, threads=2) == 1
    assert sizes == [2000, 3000, 4000]


@pytest.mark.parametrize("threads", [1, 2])
def test_read_bytes_per_s_is_a_rate_of_a_computer(threads):
    """Between 10 MB/s and 10 TB/s, also where the bytes are no multiple of the threads."""
    assert 1e7 < memory_bandwidth.read_bytes_per_s(1_000_003, threads=threads, seconds=0.0) < 1e13

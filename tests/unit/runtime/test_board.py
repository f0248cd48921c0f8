"""The hardware of a machine, from files as Linux writes them on x86 and on a Raspberry Pi."""

import os

import pytest

from edgeml_core.manifest import ENGINES
from edgeml_runtime import engines
from edgeml_runtime.hardware import board

X86 = (
    "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512_vnni\n\n"
    "processor\t: 1\nmodel name\t: other\n"
)
PI = "processor\t: 0\nFeatures\t: fp asimd\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B\n"
MEMORY = "MemTotal:        3884312 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"
PHYSICAL_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Let the module read files with these texts, and no control groups."""
    monkeypatch.setattr(board, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(board, "_GROUPS", tmp_path)

    def write(cpu, memory):
        for name, text in (("_CPU_INFO", cpu), ("_MEMORY_INFO", memory)):
            if text is not None:
                (tmp_path / name).write_text(text)
            monkeypatch.setattr(board, name, tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("cpu", "name", "features"),
    [(X86, "Intel(R) Xeon(R)", {"fpu", "avx2", "avx512_vnni"}), (PI, "Raspberry Pi 4 Model B", {"fp", "asimd"})],
)
def test_this_machine_reads_name_features_and_memory(files, cpu, name, features):
    """Of several cores the first; `flags` on x86, `Features` on Arm."""
    files(cpu, MEMORY)
    found = board.this_machine()
    assert (found.cpu, found.cpu_features) == (name, features)
    assert found.memory_bytes == PHYSICAL_BYTES
    assert board.available_bytes() == 2_000_000 * 1024


def test_this_machine_without_proc_has_its_architecture_as_name(files):
    """In a container without /proc nothing fails; the available memory is unknown, which is 0."""
    files(None, None)
    found = board.this_machine()
    assert found.cpu == found.arch
    assert (found.cpu_features, board.available_bytes()) == (frozenset(), 0)


def test_formats_are_those_of_the_installed_runtimes():
    """A device without LiteRT takes no .tflite bundle."""
    found = board.this_machine()
    assert found.runtimes == engines.installed()
    assert found.formats == {name for name, engine in ENGINES.items() if engine in engines.installed()}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": 1000, "pod/agent": 3000}, 1000),
        ({"pod": 3000, "pod/agent": 2000}, 2000),
        ({"pod": "max", "pod/agent": "max"}, None),
        ({"": 1 << 60}, None),
        ({}, None),
    ],
)
def test_memory_max_bytes_is_the_smallest_limit_of_all_groups(tmp_path, files, limits, expected):
    """Of a container, of its pod, or of the machine; a group without a limit has the word max."""
    files(PI, MEMORY)
    (tmp_path / "cgroup").write_text("4:memory:/other\n0::/pod/agent\n")
    for folder, limit in limits.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
    assert board.memory_max_bytes() == board.this_machine().memory_bytes == (expected or PHYSICAL_BYTES)


#: What a group's limit leaves: 600 of its 1,000 bytes are in use, 250 of them by the cache of files.
USED = "600\n"
STAT = "anon 350\nfile 260\n{0}inactive_file 200\n{0}active_file 50\n"
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/pod/agent", "pod", ("memory.max", "memory.current", "")),
        ("0::/", "", ("memory.max", "memory.current", "")),
        ("4:memory:/docker/ab12", "memory", V1_FILES),
        ("4:memory:/pod", "memory/pod", V1_FILES),
    ],
)
def test_available_bytes_is_what_the_limit_of_a_container_leaves(tmp_path, files, line, folder, names):
    """Else a release is fetched and probed that the container has no room for, and the kernel kills the agent."""
    files(PI, MEMORY)
    (tmp_path / "cgroup").write_text(f"9:cpu:/other\n{line}\n")
    group = tmp_path / folder
    group.mkdir(parents=True, exist_ok=True)
    limit, used, prefix = names
    for name, text in ((limit, "1000\n"), (used, USED), ("memory.stat", STAT.format(prefix))):
        (group / name).write_text(text)
    assert board.available_bytes() == 650
    (group / limit).write_text("300\n")
    assert board.available_bytes() == 0
    (group / limit).write_text(f"{1 << 62}\n")
    assert board.available_bytes() == 2_000_000 * 1024

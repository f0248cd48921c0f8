"""The working folder: everything in it, and nothing left."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgeml import workspace
from edgeml_core.errors import DeviceError, GateFailed, UsageError


def test_temporary_files_lie_in_the_output_folder(tmp_path: Path):
    """Also those of child processes."""
    with workspace.folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"
        assert Path(tempfile.mkdtemp()).parent == folder
        command = [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"]
        assert Path(subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()).parent == folder


def test_the_folder_goes_away_also_when_the_work_fails(tmp_path: Path):
    """And temporary files lie where they lay before."""
    before = tempfile.gettempdir(), os.environ.get("TMPDIR")
    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (tempfile.gettempdir(), os.environ.get("TMPDIR")) == before


def fail_within(output: Path) -> None:
    with workspace.folder(output) as folder:
        (folder / "half").write_text("written")
        raise RuntimeError("on purpose")


def test_what_a_killed_export_left_is_cleared_and_a_running_one_is_not(tmp_path: Path):
    """The kernel frees the lock of a killed process; another process's folder, and one of this process, stay."""
    code = (
        "import sys, time; from pathlib import Path; from edgeml import workspace\n"
        "with workspace.folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('written'); print(folder, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running,
    ):
        left, busy = (Path(it.stdout.readline().strip()) for it in (killed, running) if it.stdout)
        killed.kill()
        killed.wait()
        assert (left / "half").exists()
        with workspace.folder(tmp_path) as outer, workspace.folder(tmp_path) as inner:
            assert not left.exists()
            assert (busy / "half").exists()
            assert outer.exists()
            assert inner.exists()
        running.kill()
    with workspace.folder(tmp_path) as last:
        assert list(tmp_path.iterdir()) == [last]


def test_a_link_that_is_called_like_a_working_folder_stays(tmp_path: Path):
    """Nothing outside of the output folder is removed."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".export-link").symlink_to(tmp_path / "mine")
    with workspace.folder(tmp_path / "out"):
        assert (tmp_path / "mine" / "file").exists()


def test_inside_it_there_is_no_hub_and_no_telemetry(tmp_path: Path):
    """The libraries read these when they are imported, which happens inside."""
    with workspace.folder(tmp_path):
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_an_output_that_can_t_be_written_is_a_usage_error(tmp_path: Path):
    """A file where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError), workspace.folder(tmp_path / "file"):
        pass


def test_converters_are_kept_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """What they print, from Python or a child of theirs, goes to the log; afterwards printing works again."""
    with workspace.quiet(tmp_path):
        print("from Python")
        os.write(1, b"from C++\n")
        os.write(2, b"from C++ too\n")
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    log = (tmp_path / "tools.log").read_text()
    assert all(part in log for part in ("from Python", "from C++\n", "from C++ too"))


def test_quiet_torchao_warnings_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A caller whose handlers write to streams of their own sees none of them; afterwards the logger is as before."""
    logger = logging.getLogger("torchao")
    with workspace.quiet(tmp_path):
        logger.warning("Failed to load _C_cutlass_90a.abi3.so")
    logger.warning("after")
    assert caplog.messages == ["after"]
    assert "Failed to load _C_cutlass_90a" in (tmp_path / "tools.log").read_text()


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_disk_is_said_to_be_full_however_a_converter_wraps_it(tmp_path: Path, is_wrapped: bool):
    """A real ENOSPC, bare and as the cause of a gate's error; nothing is left."""
    with pytest.raises(DeviceError) as caught:
        fill_up(tmp_path / "out", is_wrapped=is_wrapped)
    assert caught.value.code == "disk-full"
    assert not (tmp_path / "out").exists()


def fill_up(output: Path, *, is_wrapped: bool) -> None:
    """Write to a disk that is full in the middle of an export."""
    with workspace.folder(output):
        try:
            Path("/dev/full").write_bytes(b"weights")
        except OSError as error:
            if is_wrapped:
                raise GateFailed("gate-failed", "a converter failed") from error
            raise

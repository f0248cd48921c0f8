"""The runner of child processes: its replies, its bound on time, and its reports of crashes."""

import time

import msgspec
import pytest

from edgeml import child_process
from edgeml.child_process import ExecutionSite
from edgeml_core.errors import DeviceError, TransportError


class Echo(msgspec.Struct):
    """A reply."""

    text: str


def run(script, **changes):
    """Run a shell script as the program."""
    site = {"name": "barn-1", "command": ["sh", "-c", script]} | changes
    return child_process.run(ExecutionSite(**site), msgspec.msgpack.encode(Echo("hello")), Echo)


def test_run_reply_is_decoded():
    """The program's stdin is the request, its stdout the reply; stderr is no part of it."""
    assert run("echo noise >&2; cat") == Echo("hello")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -ILL $$", "the run on barn-1 was ended by SIGILL"),
        ("exit 139", "the run on barn-1 was ended by SIGSEGV"),
        ("echo nonsense; echo cannot load >&2; exit 3", "ended with code 3 and no answer: cannot load"),
        ("true", "ended with code 0 and no answer"),
    ],
)
def test_run_crash_is_named(script, message):
    """The signal, from the kernel or as a shell reports it; else the exit code and the end of stderr."""
    with pytest.raises(DeviceError, match=message) as caught:
        run(script, hint="try another")
    assert (caught.value.code, caught.value.hint) == ("probe-crashed", "try another")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -KILL $$", "SIGKILL; the system was probably out of memory"),
        ("echo terminate called: std::bad_alloc >&2; kill -ABRT $$", "was ended by SIGABRT$"),
        ("echo MemoryError >&2; exit 1", "ended with code 1"),
    ],
)
def test_run_out_of_memory_hints_at_memory(script, message):
    """The kernel kills; C++ and Python give up themselves. The remedy is memory, not another runtime."""
    with pytest.raises(DeviceError, match=message) as caught:
        run(script, hint="try another")
    assert "free memory" in caught.value.hint


def test_run_child_that_hangs_is_killed_with_its_group(tmp_path):
    """No process that the child started lives on."""
    with pytest.raises(DeviceError, match=r"gave no answer within 1 s"):
        run(f"(sleep 2; touch {tmp_path / 'alive'}) & sleep 60", timeout_s=1.0)
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_run_command_that_does_not_exist_couldnt_start():
    """A missing ssh or interpreter is reported as the program's failure."""
    with pytest.raises(DeviceError, match="couldn't start"):
        run("", command=["/nonexistent/python"])


def test_run_lost_machine_is_a_transport_error():
    """The exit code by which ssh reports a lost connection is no crash of the model."""
    with pytest.raises(TransportError, match="barn-1 can't be reached: no route") as caught:
        run("echo no route >&2; exit 255", lost_code=255)
    assert caught.value.code == "host-unreachable"


def test_environment_has_no_secrets_and_no_python_settings(monkeypatch):
    """Neither credentials nor variables that change which code runs."""
    for name in ("EDGEML_BROKER_URL", "PYTHONPATH", "QEMU_CPU"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("ORDINARY", "kept")
    environment = child_process.environment()
    assert not environment.keys() & {"EDGEML_BROKER_URL", "PYTHONPATH", "QEMU_CPU"}
    assert environment["ORDINARY"] == "kept"


def test_here_runs_a_module_with_this_python():
    """A module that needs no request: its traceback is the end of stderr."""
    with pytest.raises(DeviceError, match="No module named edgeml_no_such") as caught:
        child_process.run(child_process.here("edgeml_no_such"), b"", Echo)
    assert "on this machine" in caught.value.message

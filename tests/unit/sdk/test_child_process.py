"""The runner of child processes: its replies, its bound on time, and its reports of crashes."""

import os
import sys

import msgspec
import pytest

from edgeml import child_process
from edgeml.child_process import ExecutionSite
from edgeml_core.errors import DeviceError, TransportError
from support.waiting import until


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
    """No process that the child started lives on: the end of the last one closes the pipe."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(DeviceError, match=r"gave no answer within 1 s"):
        run(f"sleep 600 > {tmp_path / 'pipe'} & sleep 600", timeout_s=1.0)
    until(lambda: is_closed(reader), "the end of what the child started")
    os.close(reader)


def is_closed(reader):
    """Whether no process has a pipe open for writing."""
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


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


CONVERSING = """
import sys, time, os, signal
from edgeml_runtime import stdio
import msgspec

class Echo(msgspec.Struct):
    text: str

def run(request):
    if request.text == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request.text == "hang":
        time.sleep(60)
    if request.text == "exit":
        print("giving up", file=sys.stderr)
        sys.exit(3)
    os.write(1, b"noise")
    return Echo(request.text.upper())

sys.exit(stdio.converse(Echo, run))
"""


def talk(texts, **changes):
    """Ask one program for each text in turn."""
    site = ExecutionSite(name="barn-1", command=[sys.executable, "-c", CONVERSING], **changes)
    with child_process.conversation(site) as conversation:
        return [conversation.ask(msgspec.msgpack.encode(Echo(text)), Echo).text for text in texts]


def test_conversation_answers_each_request_in_order():
    """One process for all; long messages come through whole, and noise of a runtime is no part of a reply."""
    long = "x" * 3_000_000
    assert talk(["one", long, "two"]) == ["ONE", long.upper(), "TWO"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crash", "the run on barn-1 was ended by SIGSEGV"),
        ("exit", "ended with code 3 and no answer: .*giving up"),
        ("hang", "gave no answer within 5 s"),
    ],
)
def test_conversation_that_ends_early_is_reported_as_a_run_is(text, message):
    """Also after answers that were good; the first one takes an interpreter's start."""
    with pytest.raises(DeviceError, match=message) as caught:
        talk(["one", text, "two"], timeout_s=5.0 if text == "hang" else 120.0)
    assert caught.value.code == "probe-crashed"


def test_conversation_of_a_lost_machine_is_a_transport_error():
    """The first request can't be sent, or its reply doesn't come."""
    site = ExecutionSite(name="barn-1", command=["sh", "-c", "echo no route >&2; exit 255"], lost_code=255)
    with (
        pytest.raises(TransportError, match="barn-1 can't be reached: no route"),
        child_process.conversation(site) as conversation,
    ):
        conversation.ask(b"x" * 1_000_000, Echo)

"""Verification without an emulator: replies held to bounds, a board's files, the remedy when nothing can run."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeml import targets
from edgeml import verify as package
from edgeml.child_process import ExecutionSite
from edgeml.verify import board, device, ssh, verification
from edgeml.verify.emulation import emulated, prepare, sysroot
from edgeml_core.calls import Refused
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, UsageError
from edgeml_runtime.tasks import Audio, Image, Prompt, Question, Tensors, Text
from edgeml_runtime.verify import child as verify_child
from edgeml_runtime.verify.child import Reply
from edgeml_runtime.verify.golden import Distance
from support.samples import a_manifest
from support.tiny_models import tiny_onnx_bundle

ITEMS = [
    Text("a"),
    Image(b"\x89"),
    Question("who?", "me"),
    Prompt(prompt="go", max_new_tokens=3, temperature=0.5, seed=1),
    Audio(np.ones(3, np.float32), 16000),
    Tensors({"x": np.arange(6, dtype=np.int64).reshape(2, 3)}),
]


@pytest.fixture(autouse=True)
def no_root(tmp_path, monkeypatch):
    """Hide the roots of this user."""
    monkeypatch.setenv(sysroot.PLACE_VARIABLE, str(tmp_path / "emulation"))


def verify(script, **changes):
    """Verify with a shell script as the program."""
    site = {"name": "Cortex-A72", "how": "emulated", "command": ["sh", "-c", script]} | changes
    return verification.run(ExecutionSite(**site), a_manifest(), b"request")


def answering(tmp_path, reply):
    """Write a shell script that answers `reply`."""
    (tmp_path / "reply").write_bytes(msgspec.msgpack.encode(reply))
    return f"cat > /dev/null; cat {tmp_path / 'reply'}"


@pytest.mark.parametrize(
    ("distance", "ok"),
    [((0.99, 0.1), True), ((0.98, 0.0), False), ((1.0, 0.2), False), ((float("nan"), float("nan")), False)],
)
def test_run_distances_out_of_bounds_are_a_mismatch(tmp_path, distance, ok):
    """Both of the manifest's; what can't be compared never passes."""
    found = Distance(case=0, output="y", cosine=distance[0], max_abs=distance[1], run_ms=1.0)
    script = answering(tmp_path, Reply(cpu="board", runtime="1.32.0", distances=(found,), answers=("a",)))
    if ok:
        given = verify(script)
        assert (given.cpu, given.how, given.runtime, given.answers) == ("Cortex-A72", "emulated", "1.32.0", ["a"])
        assert verify(script, how="measured").cpu == "board"
    else:
        with pytest.raises(DeviceError, match="on Cortex-A72: case 0, output 'y'") as caught:
            verify(script)
        assert caught.value.code == "golden-mismatch"


@pytest.mark.parametrize(("family", "kind"), [("UsageError", UsageError), ("DeviceError", DeviceError)])
def test_run_error_in_the_reply_is_raised_with_the_sites_name(tmp_path, family, kind):
    """With the place's name before it."""
    refused = Refused(family=family, code="runtime-failed", message="no kernel", hint="h")
    with pytest.raises(kind, match="on Cortex-A72: no kernel") as caught:
        verify(answering(tmp_path, Reply(cpu="", runtime="", refused=refused)))
    assert caught.value.code == "runtime-failed"


def test_encode_items_decode_as_they_were():
    """Arrays with their data type and shape."""
    request = msgspec.msgpack.decode(verify_child.encode(a_manifest(), ITEMS), type=verify_child.Request)
    arrived = verify_child.decode_items(request)
    assert arrived[:4] == ITEMS[:4]
    np.testing.assert_array_equal(arrived[4].samples, ITEMS[4].samples)
    assert arrived[4].samples.dtype == np.float32
    np.testing.assert_array_equal(arrived[5].inputs["x"], ITEMS[5].inputs["x"])
    assert arrived[5].inputs["x"].dtype == np.int64


def test_child_folder_without_files_replies_store_failed(tmp_path):
    """The program answers what is wrong; it doesn't fall."""
    reply = verify_child.verify(tmp_path, verify_child.Request(manifest=a_manifest()))
    assert reply.refused is not None
    assert reply.refused.code == "store-failed"


@pytest.mark.parametrize(("name", "part"), [("rpi4", "0xd08"), ("rpi5", "0xd0b"), ("rpi-zero2w", "0xd03")])
def test_board_write_lists_the_boards_own_cores(tmp_path, name, part):
    """Four of them, with their features, where runtimes look."""
    profile = targets.load(name)
    board.write(profile, tmp_path)
    text = (tmp_path / "cpuinfo").read_text()
    assert text.count("processor\t:") == text.count(f"CPU part\t: {part}") == 4
    assert f"Features\t: {' '.join(profile.cpu.features)}\n" in text
    assert (tmp_path / "sys/devices/system/cpu/possible").read_text() == "0-3\n"
    assert (tmp_path / "sys/devices/system/cpu/present").read_text() == "0-3\n"


def test_unready_names_the_cause_and_the_remedy(monkeypatch):
    """No root yet, a root of other versions, a CPU that qemu can't be, no qemu at all."""
    rpi4 = targets.load("rpi4")
    assert "run `edgeml target prepare rpi4`" in emulated.unready(rpi4)
    place = sysroot.folder("aarch64")
    place.mkdir(parents=True)
    older = msgspec.structs.replace(sysroot.required(), packages=("onnxruntime==1.20.1",))
    (place / sysroot.STAMP).write_bytes(msgspec.json.encode(older))
    assert "other versions" in emulated.unready(rpi4)
    assert "avx512vnni" in emulated.unready(targets.load("x86-vnni"))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "sudo apt-get install qemu-user-static" in emulated.unready(rpi4)
    with pytest.raises(UsageError, match="not installed") as caught:
        prepare.prepare(rpi4)
    assert caught.value.hint == "sudo apt-get install qemu-user-static"


def test_sysroot_folder_follows_the_environment(monkeypatch):
    """Else in the user's cache folder."""
    monkeypatch.setenv(sysroot.PLACE_VARIABLE, "/somewhere")
    assert sysroot.folder("aarch64") == Path("/somewhere/aarch64")
    monkeypatch.delenv(sysroot.PLACE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert sysroot.folder("aarch64") == Path("/cache/edgeml/emulation/aarch64")


@pytest.mark.parametrize(
    "on", ["ssh://", "ssh://-oProxyCommand=x", "http://board", "board", "ssh://b:port", "ssh://b?c"]
)
def test_ssh_address_that_is_none_is_a_usage_error(on, tmp_path):
    """Nothing that ssh could take for an option."""
    with pytest.raises(EdgemlError) as caught:
        ssh.verify(tmp_path, a_manifest(), on)
    assert caught.value.code == "usage"


@pytest.mark.parametrize(
    ("on", "message"), [("device:barn-1", "reached over its fleet's broker"), ("device:", "device id")]
)
def test_device_request_without_connection_or_id_is_a_usage_error(on, message):
    """Before anything is sent; the remedy is the broker's option."""
    with pytest.raises(UsageError, match=message):
        device.verify(on, None, "a" * 64)


def test_verify_damaged_bundle_is_rejected_before_it_runs(tmp_path):
    """Every byte is checked first, on any execution site."""
    path = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for on in ("local", "emulated", "ssh://board", "device:barn-1"):
        with pytest.raises(RejectedError) as caught:
            package.verify(path, on)
        assert caught.value.code in {"digest-mismatch", "bundle-format"}


@pytest.mark.parametrize(
    ("fault", "code"), [("none", None), ("wrong golden", "golden-mismatch"), ("huge", "runtime-failed")]
)
def test_verify_here_runs_the_bundle_in_a_child(tmp_path, fault, code):
    """The real program on a real model: reproduced, or the error that the child found."""
    tiny_onnx_bundle(tmp_path / "tiny.edgeml", fault=fault)
    if code is None:
        found = package.verify(tmp_path / "tiny.edgeml")
        assert (found.how, found.max_abs) == ("measured", 0.0)
    else:
        with pytest.raises(DeviceError, match="on this machine") as caught:
            package.verify(tmp_path / "tiny.edgeml")
        assert caught.value.code == code

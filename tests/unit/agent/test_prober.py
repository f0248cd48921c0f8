"""The probe in its real child process, on real models with one fault each."""

import asyncio
import contextlib
import multiprocessing
import zipfile
from pathlib import Path

import msgspec
import pytest

from edgeml_agent.probe import prober
from edgeml_agent.probe.prober import ChildProber
from edgeml_core.errors import DeviceError, RejectedError
from support.tiny_models import tiny_onnx_bundle
from support.waiting import until


def unpacked(tmp_path, **changes):
    """A bundle's folder and manifest."""
    manifest = tiny_onnx_bundle(tmp_path / "tiny.edgeml", **changes)
    zipfile.ZipFile(tmp_path / "tiny.edgeml").extractall(tmp_path / "tiny")
    return tmp_path / "tiny", manifest


def probe(tmp_path, timeout_s=30.0, **changes):
    """What the probe finds."""
    return asyncio.run(ChildProber(timeout_s=timeout_s).probe(*unpacked(tmp_path, **changes)))


def test_a_good_model_passes(tmp_path):
    """With its distance, times and memory."""
    found = probe(tmp_path)
    assert found.min_cosine > 0.999
    assert found.max_abs == 0
    assert 0 < found.median_ms < 1000
    assert 20e6 < found.peak_rss_bytes < 1e9


@pytest.mark.parametrize(
    ("fault", "code"), [("crash", "probe-crashed"), ("wrong golden", "golden-mismatch"), ("huge", "runtime-failed")]
)
def test_prober_of_a_faulty_model_is_a_device_error(tmp_path, fault, code):
    """Each by its own code; a crash names the signal."""
    with pytest.raises(DeviceError) as caught:
        probe(tmp_path, fault=fault)
    assert caught.value.code == code
    assert ("SIGFPE" in caught.value.message) == (fault == "crash")


def test_prober_of_a_hanging_model_kills_it(tmp_path):
    """The child is gone afterwards: `probe` waits for it."""
    with pytest.raises(DeviceError, match="no answer within 1 s") as caught:
        probe(tmp_path, timeout_s=1.0, fault="hang")
    assert caught.value.code == "probe-crashed"


def test_a_model_that_hangs_ends_with_a_killed_agent(tmp_path):
    """Nobody is left to end it after its time."""
    folder, manifest = unpacked(tmp_path, fault="hang")
    agent = multiprocessing.get_context("spawn").Process(target=probe_there, args=(folder, manifest))
    agent.start()
    until(lambda: expendable(folder))
    agent.kill()
    agent.join()
    until(lambda: not probing(folder))


def probe_there(folder, manifest):
    """What an agent does in another process."""
    asyncio.run(ChildProber().probe(folder, manifest))


def probing(folder):
    """The probe's processes for this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            found += [process] if b"edgeml_agent.probe.child" in command and str(folder).encode() in command else []
    return found


def expendable(folder):
    """Whether the probe has done what it does first."""
    return any((process / "oom_score_adj").read_text() == "1000\n" for process in probing(folder))


def test_prober_of_a_model_beyond_its_memory_kills_it(tmp_path, monkeypatch):
    """Held to what the bundle says it needs."""
    monkeypatch.setattr(prober, "MEMORY_BASE_BYTES", 30_000_000)
    monkeypatch.setattr(prober, "WATCH_EVERY_S", 0.001)
    with pytest.raises(DeviceError, match="bytes of memory") as caught:
        probe(tmp_path, fault="hang")
    assert caught.value.code == "probe-crashed"


def test_a_damaged_golden_file_is_the_sender_s_fault(tmp_path):
    """The family survives the way out of the child."""
    folder, manifest = unpacked(tmp_path)
    (folder / manifest.golden.path).write_bytes(b"damaged")
    with pytest.raises(RejectedError) as caught:
        asyncio.run(ChildProber().probe(folder, manifest))
    assert caught.value.code == "bundle-format"


def test_prober_with_a_missing_file_reports_it(tmp_path):
    """Not a crash."""
    folder, manifest = unpacked(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(DeviceError) as caught:
        asyncio.run(ChildProber().probe(folder, manifest))
    assert caught.value.code == "store-failed"


def test_prober_of_an_unsuitable_model_refuses_it(tmp_path):
    """A runtime that is too old, or too little memory."""
    _, manifest = unpacked(tmp_path)
    ChildProber().admit(manifest)
    newer = msgspec.structs.replace(manifest.runtime, min_version="999.0")
    with pytest.raises(DeviceError) as caught:
        ChildProber().admit(msgspec.structs.replace(manifest, runtime=newer))
    assert caught.value.code == "runtime-missing"
    with pytest.raises(DeviceError) as caught:
        ChildProber(available_bytes=lambda: 1000).admit(manifest)
    assert caught.value.code == "memory-short"

"""Bundles verified on CPUs that this machine is not: a Haswell, the Pis in an arm64 root, and a machine by real ssh."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeml import bench, targets
from edgeml.child_process import ExecutionSite
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml.verify import Verification, verification, verify
from edgeml.verify.emulation import emulated, sysroot
from edgeml.verify.emulation.prepare import prepare
from edgeml_core import golden
from edgeml_core.calls import Timing
from edgeml_core.errors import DeviceError, TransportError
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Audio, Item, Text
from edgeml_runtime.unpack import unpacked
from support import sounds, tiny_chat, tiny_whisper
from support.brokers import listens
from support.ports import free_port
from support.scale import scaled
from support.tiny_models import tiny_onnx_bundle, tiny_text_bundle
from support.waiting import until

TEXTS = [Text("The pump in hall two has stopped."), Text("Wheat needs less water than rice does.")]
PIS = ("rpi4", "rpi5", "rpi-zero2w")
#: Bits and kernel of a language model's products, by recipe and board.
KERNELS = {
    ("weight-only-4bit", "x86-gateway"): (4, "int8 products, without dot product instructions"),
    ("weight-only-4bit", "rpi5"): (4, "int8 products, with dot product instructions"),
    ("weight-only-4bit", "rpi4"): (4, "fp32 products"),
    ("dynamic-s8", "rpi4"): (8, "int8 products, without dot product instructions"),
    ("dynamic-s8", "rpi-zero2w"): (8, "int8 products, without dot product instructions"),
}

pytestmark = pytest.mark.usefixtures("arm64")


@pytest.fixture(scope="module")
def minilm(bundles: list[Exported]) -> list[Exported]:
    """The real sentence encoder for a Pi 4 and by night for a gateway without VNNI, in both formats."""
    return [it for target in ("x86-gateway", "rpi4") for it in bundles if it.manifest.target == target]


def verify_emulated(bundle: Path, target: str, *items: Item) -> Verification:
    with unpacked(bundle) as opened:
        return emulated.verify(opened.folder, opened.manifest, targets.load(target), items)


@pytest.mark.parametrize("target", ["x86-gateway", *PIS])
def test_a_tiny_model_answers_as_here(target: str, tmp_path: Path):
    """On every CPU that can be emulated: golden outputs and the items' answers."""
    bundle = tmp_path / "tiny.edgeml"
    tiny_text_bundle(bundle)
    found = verify_emulated(bundle, target, Text("good film"), Text("bad"))
    assert (found.cpu, found.how) == (targets.load(target).cpu.core, "emulated")
    assert [answer["labels"][0]["label"] for answer in found.answers] == ["positive", "negative"]
    assert found.max_abs < 1e-6


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["x86-gateway", *PIS])
def test_a_language_model_writes_there_as_here(target: str, chatting: tuple[Path, Exported], tmp_path: Path):
    """In the recipe that ships for the board: the golden outputs and tokens, and the same answer to a question."""
    (exported,) = export(
        ExportRequest(model=str(chatting[0]), targets=(target,), formats=("onnx",), output=tmp_path / "out")
    )
    with unpacked(exported.path) as opened:
        model = Model.open(opened.folder, opened.manifest)
        asked = model.parse({"messages": [{"role": "user", "content": "Where is the valve?"}]})
        here = model.predict(asked)
        cases = golden.decode((opened.folder / golden.GOLDEN_NAME).read_bytes())
    found = verify_emulated(exported.path, target, *asked)
    assert any(case.tokens for case in cases)
    assert found.answers == here
    assert here[0]["text"] == tiny_chat.FACTS["Where is the valve?"]
    kernels = exported.manifest.card.kernels
    assert kernels
    assert (kernels.cpu, kernels.how) == (targets.load(target).cpu.core, "emulated")
    assert {(it.bits, it.kernel) for it in kernels.products} == {KERNELS[exported.manifest.card.recipe, target]}


# 15 s of CPU time each.
@pytest.mark.nightly
@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
def test_blocks_of_four_bits_run_in_the_kernels_of_the_board(
    target: str, chatting: tuple[Path, Exported], tmp_path: Path
):
    """The same weights: int8 products where the CPU has dot products, fp32 products elsewhere."""
    request = ExportRequest(
        model=str(chatting[0]),
        targets=(target,),
        formats=("onnx",),
        recipe="weight-only-4bit",
        output=tmp_path / "out",
    )
    (exported,) = export(request)
    kernels = exported.manifest.card.kernels
    assert kernels
    (use,) = kernels.products
    assert (use.operator, use.share) == ("MatMulNBits", 1.0)
    assert (use.bits, use.kernel) == KERNELS["weight-only-4bit", target]


# 40 s of CPU time, training included.
@pytest.mark.nightly
def test_whisper_hears_there_as_here(whisper: tuple[Path, Exported], tmp_path: Path):
    """In the recipe that ships for a Pi 4: the golden outputs, and numbers of both languages, token by token."""
    (exported,) = export(
        ExportRequest(model=str(whisper[0]), targets=("rpi4",), formats=("onnx",), output=tmp_path / "out")
    )
    spoken = [it for it in tiny_whisper.spoken() if it[1] in ("seven", "sieben", "zero")]
    items = [Audio(sound, sounds.SAMPLING_RATE_HZ) for *_, sound in spoken]
    found = verify_emulated(exported.path, "rpi4", *items)
    assert found.cpu == "Cortex-A72"
    assert "dynamic" in exported.manifest.card.recipe
    assert found.max_abs <= exported.manifest.golden.max_abs
    assert [(it["language"], it["text"]) for it in found.answers] == [(code, text) for code, text, _ in spoken]


@pytest.mark.parametrize("target", ["x86-gateway", "rpi4"])
def test_a_wrong_golden_output_is_found(target: str, tmp_path: Path):
    """What the bundle recorded is not what that CPU computes."""
    tiny_onnx_bundle(tmp_path / "tiny.edgeml", fault="wrong golden")
    with pytest.raises(DeviceError, match="largest distance 8") as caught:
        verify_emulated(tmp_path / "tiny.edgeml", target)
    assert caught.value.code == "golden-mismatch"


def test_a_crash_of_the_model_is_named(tmp_path: Path):
    """A hardware trap under emulation ends the child and nothing else."""
    tiny_onnx_bundle(tmp_path / "tiny.edgeml", fault="crash")
    with pytest.raises(DeviceError, match="the run on Haswell was ended by SIGFPE") as caught:
        verify_emulated(tmp_path / "tiny.edgeml", "x86-gateway")
    assert caught.value.code == "probe-crashed"


def test_a_crash_inside_the_root_is_named(tmp_path: Path):
    """An instruction that no Cortex-A72 has, executed there."""
    undefined = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(bytes(4))\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    )
    with unpacked_tiny(tmp_path) as opened, sysroot.python_command(targets.load("rpi4"), opened.folder) as python:
        site = ExecutionSite(name="Cortex-A72", how="emulated", command=[*python, "-c", undefined])
        with pytest.raises(DeviceError, match="was ended by SIGILL"):
            verification.run(site, opened.manifest, b"")


def test_the_root_shows_the_board(tmp_path: Path):
    """Its machine, its cores and its features, and none of this machine's; the root itself has no mounts left."""
    code = "import platform; print(platform.machine(), open('/proc/cpuinfo').read(), end='')"
    with unpacked_tiny(tmp_path) as opened, sysroot.python_command(targets.load("rpi5"), opened.folder) as python:
        said = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("aarch64 processor\t: 0\n")
    assert said.count("CPU part\t: 0xd0b") == 4
    assert "asimddp" in said
    assert str(sysroot.folder("aarch64")) not in Path("/proc/mounts").read_text()


def test_a_user_other_than_root_enters_too(tmp_path: Path):
    """By a namespace of that user's own."""
    with unpacked_tiny(tmp_path) as opened, sysroot.python_command(targets.load("rpi4"), opened.folder) as command:
        start = command.index("sh")
        own = [*["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"], *command[start:]]
        done = subprocess.run([*own, "-c", "print('verified')"], capture_output=True, text=True, check=False)
    assert done.stdout == "verified\n", done.stderr


def test_a_root_that_would_do_is_kept(arm64: Path):
    """And it serves all boards of its architecture."""
    made = (arm64 / sysroot.STAMP).stat().st_mtime_ns
    assert {prepare(targets.load(name)) for name in PIS} == {arm64}
    assert (arm64 / sysroot.STAMP).stat().st_mtime_ns == made
    assert prepare(targets.load("x86-gateway")) is None


def test_a_half_made_root_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Debian can't be reached: a transport error, and an empty folder."""
    monkeypatch.setenv(sysroot.PLACE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("EDGEML_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    with pytest.raises(TransportError) as caught:
        prepare(targets.load("rpi4"))
    assert caught.value.code == "download-failed"
    assert list(tmp_path.iterdir()) == []


# 25 s of CPU time; by day a tiny model runs on each board's CPU, and digits on two.
@pytest.mark.nightly
def test_minilm_is_verified_on_its_boards_cpu(minilm: list[Exported]):
    """Within the bounds of its target; embeddings there are those from here but for rounding."""
    assert len(minilm) == scaled(4, 2)
    for exported in minilm:
        manifest = exported.manifest
        found = verify_emulated(exported.path, manifest.target, *TEXTS)
        assert found.min_cosine >= manifest.golden.min_cosine
        assert found.max_abs <= manifest.golden.max_abs
        with unpacked(exported.path) as opened:
            model = Model.open(opened.folder, opened.manifest)
            here = [model.predict([text])[0] for text in TEXTS]
            model.close()
        there = np.array([answer["embedding"] for answer in found.answers])
        assert (there * np.array([answer["embedding"] for answer in here])).sum(axis=1).min() > 0.98


def test_verify_says_on_which_cpu(tmp_path: Path):
    """By the command, as the operator sees it."""
    tiny_text_bundle(tmp_path / "tiny.edgeml", target="rpi4")
    command = [sys.executable, "-m", "edgeml", "verify", str(tmp_path / "tiny.edgeml"), "--on", "emulated", "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (said["ok"], said["cpu"], said["how"]) == (True, "Cortex-A72", "emulated")
    assert "ms" not in " ".join(said)


def test_a_bundle_is_verified_and_benched_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A real server with keys of its own: the files go there, run there, and are gone after that."""
    left = tmp_path / "left"
    left.mkdir()
    with ssh_server(tmp_path, f"TMPDIR={left}") as port:
        shim = tmp_path / "bin" / "ssh"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path / "config"} "$@"\n')
        shim.chmod(0o755)
        monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
        on = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{sys.executable}"
        tiny_text_bundle(tmp_path / "good.edgeml")
        found = verify(tmp_path / "good.edgeml", on)
        assert (found.how, found.max_abs) == ("measured", 0.0)
        timed = bench.measure(tmp_path / "good.edgeml", on, timing=Timing(threads=1, seconds=0.05))
        assert (timed.on, timed.cpu, timed.engine_version) == (on, found.cpu, found.runtime)
        assert (timed.case, timed.threads) == (1, 1)
        assert timed.result.latency.runs >= 30
        assert timed.result.peak_rss_bytes > 20e6
        tiny_onnx_bundle(tmp_path / "wrong.edgeml", fault="wrong golden")
        with pytest.raises(DeviceError, match=r"on 127\.0\.0\.1: case 0") as caught:
            verify(tmp_path / "wrong.edgeml", on)
        assert caught.value.code == "golden-mismatch"
        tiny_onnx_bundle(tmp_path / "crash.edgeml", fault="crash")
        with pytest.raises(DeviceError, match="was ended by SIGFPE"):
            verify(tmp_path / "crash.edgeml", on)
        with pytest.raises(DeviceError, match="was ended by SIGFPE"):
            bench.measure(tmp_path / "crash.edgeml", on, timing=Timing())
        assert list(left.iterdir()) == []
    with pytest.raises(TransportError, match="can't be reached") as lost:
        verify(tmp_path / "good.edgeml", on)
    assert lost.value.code == "host-unreachable"


def unpacked_tiny(tmp_path: Path):
    tiny_text_bundle(tmp_path / "tiny.edgeml")
    return unpacked(tmp_path / "tiny.edgeml")


class ssh_server:  # noqa: N801 -- reads as a function: a context
    """A real sshd on loopback that lets this user in by a key made for it."""

    def __init__(self, folder: Path, environment: str) -> None:
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        self.port = free_port()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nSetEnv {environment}\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        )
        (folder / "config").write_text(
            f"Host *\nIdentityFile {folder / 'user'}\nIdentitiesOnly yes\nStrictHostKeyChecking accept-new\n"
            f"UserKnownHostsFile {folder / 'known_hosts'}\nLogLevel ERROR\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where Debian's sshd goes before a login; packages' scripts make it
        found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert found, "install openssh-server"
        self._command = [found, "-D", "-e", "-f", str(folder / "sshd_config")]

    def __enter__(self) -> int:
        self._server = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        until(lambda: listens(self.port), "sshd starts")
        return self.port

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        self._server.wait()

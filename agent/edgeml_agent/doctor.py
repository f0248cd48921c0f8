"""What of this machine would keep the agent from working, and the remedy: `edgeml-agent doctor`.

Looks and reports; changes nothing here. Runtimes are imported in a child process, since one built for another CPU
kills the process that imports it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgeml_agent import board
from edgeml_agent.settings import BrokerSettings, Settings, StoreSettings
from edgeml_core.manifest import Engine
from edgeml_runtime import engines

Status = Literal["ok", "warning", "failed"]

PYTHON_MIN: Final = (3, 11)
MEMORY_MIN_BYTES: Final = 128 * 1024**2
DISK_MIN_BYTES: Final = 256 * 1024**2
#: Boards throttle from 80 to 85 degrees Celsius.
HOT_CELSIUS: Final = 80.0
IMPORT_TIMEOUT_S: Final = 60
CONNECT_TIMEOUT_S: Final = 5
#: No machine that runs this code has a right clock before it.
CLOCK_FLOOR: Final = datetime(2026, 11, 1, tzinfo=UTC)
#: What the agent must never load: training libraries and the host's command line.
HOST_LIBRARIES: Final = ("torch", "transformers", "onnx", "optimum", "click")
#: CPU features that int8 kernels use, as Linux names them.
NOTABLE_FEATURES: Final = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
_MIB: Final = 1024**2
_ADAPTERS: Final[dict[Engine, str]] = {"onnxruntime": "edgeml_runtime.ort", "litert": "edgeml_runtime.litert"}
_EXTRAS: Final[dict[Engine, str]] = {"onnxruntime": "agent", "litert": "tflite"}
#: MQTT 3.1.1, section 3.2.2.3.
_CONNACK: Final = {
    1: "it doesn't speak MQTT 3.1.1",
    2: "it refuses the client id",
    3: "it is not available",
    4: "it refuses the user name or password",
    5: "it doesn't authorize this device",
}


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. `remedy` is one sentence, empty when all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def run(settings: Settings | None) -> tuple[Check, ...]:
    """Look at everything; without settings, at all that needs none. No check can fail the others."""
    return tuple(_checks(settings))


def _checks(settings: Settings | None) -> Iterator[Check]:
    yield python(sys.version_info[:3])
    machine = board.this_machine()
    yield cpu(machine.arch, machine.cpu_features)
    yield from (engine(name) for name in _ADAPTERS)
    yield purity()
    yield memory(board.available_bytes())
    yield disk(settings.store if settings else None)
    yield clock(datetime.now(UTC))
    yield heat(Path("/sys/class/thermal"))
    if settings:
        yield broker(settings.broker)


def python(version: tuple[int, int, int]) -> Check:
    """Whether this Python is recent enough."""
    detail = ".".join(map(str, version))
    if version < PYTHON_MIN:
        return Check("python", "failed", detail, "install Python {}.{} or newer".format(*PYTHON_MIN))
    return Check("python", "ok", detail)


def cpu(arch: str, features: frozenset[str]) -> Check:
    """Whether bundles exist for this CPU, and what of it int8 can use."""
    detail = " ".join([arch, *(name for name in NOTABLE_FEATURES if name in features)])
    if arch not in {"aarch64", "x86_64"}:
        return Check("cpu", "failed", detail, "use a 64-bit system: bundles are made for aarch64 and x86_64")
    if arch == "x86_64" and features and "avx2" not in features:
        return Check("cpu", "warning", detail, "expect slow int8 without AVX2; measure with `edgeml bench`")
    return Check("cpu", "ok", detail)


def engine(name: Engine) -> Check:
    """Whether a runtime is installed and its wheel suits this CPU: imported where it can do no harm."""
    install = f"pip install --upgrade 'edgeml[{_EXTRAS[name]}]'"
    version = engines.installed().get(name)
    if version is None and name == "litert":
        return Check(name, "ok", f"not installed; only .tflite bundles need it: {install}")
    if version is None:
        return Check(name, "failed", "not installed", install)
    problem = python_problem(f"import {_ADAPTERS[name]}")
    if problem is None:
        return Check(name, "ok", version)
    return Check(name, "failed", f"{version} {problem}", f"install a version built for this CPU, or: {install}")


def purity() -> Check:
    """Whether the agent's own code stays free of training libraries."""
    code = (
        "import sys, edgeml_agent.agent, edgeml_agent.serve.app;"
        f"loaded = sys.modules.keys() & {set(HOST_LIBRARIES)!r};"
        "sys.exit('it loads ' + ', '.join(sorted(loaded)) if loaded else 0)"
    )
    problem = python_problem(code)
    if problem is None:
        return Check("imports", "ok", "the agent loads no training library")
    return Check("imports", "failed", f"importing the agent {problem}", "reinstall edgeml in a fresh environment")


def memory(available_bytes: int) -> Check:
    """Whether there is memory for a small model."""
    detail = f"{available_bytes // _MIB} MiB available"
    if available_bytes < MEMORY_MIN_BYTES:
        return Check("memory", "warning", detail, f"free memory up to {MEMORY_MIN_BYTES // _MIB} MiB, or add zram")
    return Check("memory", "ok", detail)


def disk(store: StoreSettings | None) -> Check:
    """Whether the store's folder can be written and has room."""
    wanted = (store.dir if store else Path()).absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    detail = f"{free_bytes // _MIB} MiB free at {folder}"
    if store and not os.access(folder, os.W_OK):
        return Check("disk", "failed", f"{folder} can't be written", "set [store] dir, or run as the folder's owner")
    if free_bytes < DISK_MIN_BYTES:
        return Check("disk", "warning", detail, f"free space up to {DISK_MIN_BYTES // _MIB} MiB, or set [store] dir")
    return Check("disk", "ok", detail)


def clock(now: datetime) -> Check:
    """Whether the time can be right; signatures expire by it."""
    detail = now.isoformat(timespec="seconds")
    if now < CLOCK_FLOOR:
        return Check("clock", "warning", f"{detail} is in the past", "set the clock, or turn on NTP: timedatectl")
    return Check("clock", "ok", detail)


def heat(zones: Path) -> Check:
    """The hottest sensor below `zones`, where there is one."""
    celsius = max((value for path in zones.glob("thermal_zone*/temp") if (value := _celsius(path))), default=None)
    if celsius is None:
        return Check("temperature", "ok", "can't be read here")
    if celsius >= HOT_CELSIUS:
        return Check("temperature", "warning", f"{celsius:.0f} C", "cool the board: it slows down when it is this hot")
    return Check("temperature", "ok", f"{celsius:.0f} C")


def broker(settings: BrokerSettings) -> Check:
    """Whether the MQTT broker answers and lets this device in."""
    try:
        code = _connect(settings)
    except (OSError, ValueError) as error:
        remedy = "check [broker] url and, with mqtts, ca, cert and key; is the broker running?"
        return Check("broker", "failed", f"{settings.url}: {error}", remedy)
    if code != 0:
        reason = _CONNACK.get(code, "it doesn't answer as an MQTT broker")
        return Check("broker", "failed", f"{settings.url}: {reason}", "check the credentials and the port in [broker]")
    return Check("broker", "ok", f"{settings.url} lets this device in")


def _connect(settings: BrokerSettings) -> int:
    """The code of the broker's answer to a CONNECT; -1 for no MQTT answer."""
    url = settings.url
    with socket.create_connection((url.host, url.port), CONNECT_TIMEOUT_S) as plain:
        link = _tls(settings).wrap_socket(plain, server_hostname=url.host) if url.tls else plain
        with link:
            link.sendall(_connect_packet(url.username, url.password))
            answer = link.recv(4)
            link.sendall(b"\xe0\x00")  # DISCONNECT, so that no will is sent
    return answer[3] if len(answer) == 4 and answer[:2] == b"\x20\x02" else -1


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca)
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context


def _connect_packet(username: str | None, password: str | None) -> bytes:
    """An MQTT 3.1.1 CONNECT. The session isn't cleaned: a broker that names clients by user would wipe the agent's."""
    given = [text for text in (username, password) if text is not None]
    flags = (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    fields = [f"doctor-{secrets.token_hex(4)}", *given]
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x0a"
    body += b"".join(len(data).to_bytes(2, "big") + data for data in (field.encode() for field in fields))
    low, high = len(body) % 128, len(body) // 128
    return b"\x10" + (bytes([low | 0x80, high]) if high else bytes([low])) + body


def python_problem(code: str) -> str | None:
    """What went wrong when a child process ran `code`; None when nothing did."""
    try:
        command = [sys.executable, "-P", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"doesn't end within {IMPORT_TIMEOUT_S} s"
    if done.returncode == -signal.SIGILL:
        return "uses an instruction that this CPU lacks"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ends with code {done.returncode}"]
        return f"fails: {lines[-1]}"
    return None


def _celsius(path: Path) -> float | None:
    """A sensor's reading, which Linux gives in thousandths; None for one that can't be read."""
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):
        return None

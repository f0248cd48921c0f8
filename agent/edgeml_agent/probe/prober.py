"""The prober: it runs a model in a child process, within bounds of time and memory. `child` has the child's code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from edgeml_agent.ports import Probed
from edgeml_agent.probe.child import TUNE, Outcome
from edgeml_core import decoding, messages
from edgeml_core.calls import TIMEOUT_S as CALL_TIMEOUT_S
from edgeml_core.calls import Call, Reply
from edgeml_core.errors import DeviceError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Tuned
from edgeml_runtime import engines
from edgeml_runtime.hardware import board

#: Seconds for a probe: large models load for a minute on the slowest boards.
TIMEOUT_S: Final = 120.0
#: The child's resident memory may be twice the bundle's declared need, plus bytes for an interpreter with its runtime
#: (66 MB measured with onnxruntime 1.32). RLIMIT_AS would be stricter, but counts memory that threads reserve and never
#: touch.
MEMORY_FACTOR: Final = 2
MEMORY_BASE_BYTES: Final = 256 * 1024**2
#: Seconds between two looks at the child's memory.
WATCH_EVERY_S: Final = 0.05


class ChildProber:
    """A `Prober` that starts `python -m edgeml_agent.probe.child` for each model and each call.

    Args:
        available_bytes: returns the memory that is available now.
    """

    def __init__(
        self, *, timeout_s: float = TIMEOUT_S, available_bytes: Callable[[], int] = board.available_bytes
    ) -> None:
        self._timeout_s = timeout_s
        self._available_bytes = available_bytes

    def admit(self, manifest: Manifest) -> None:
        """See `Prober.admit`."""
        engines.check_runtime(manifest.runtime)
        needed, available = manifest.needs.ram_bytes, self._available_bytes()
        if needed > available:
            message = f"{manifest.stem} needs {needed} bytes of memory; {available} are available"
            raise DeviceError("memory-short", message, "stop other programs, or deploy a smaller model to this device")

    async def probe(self, folder: Path, manifest: Manifest) -> Probed:
        """See `Prober.probe`."""
        outcome = await self._outcome(manifest, self._timeout_s, str(folder))
        if outcome.probed is None:
            raise _crashed(manifest, "gave an empty answer")
        return outcome.probed

    async def answer(self, folder: Path, manifest: Manifest, call: Call) -> Reply:
        """See `Prober.answer`."""
        outcome = await self._outcome(manifest, CALL_TIMEOUT_S, str(folder), messages.encode(call).decode())
        if outcome.reply is None:
            raise _crashed(manifest, "gave an empty answer")
        return outcome.reply

    async def tune(self, folder: Path, manifest: Manifest) -> Tuned:
        """See `Prober.tune`."""
        outcome = await self._outcome(manifest, self._timeout_s, str(folder), TUNE)
        if outcome.tuned is None:
            raise _crashed(manifest, "gave an empty answer")
        return outcome.tuned

    async def _outcome(self, manifest: Manifest, timeout_s: float, *arguments: str) -> Outcome:
        """Start the child with `arguments` and return its output, within its bounds of time and memory."""
        limit_bytes = MEMORY_BASE_BYTES + MEMORY_FACTOR * manifest.needs.ram_bytes
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "edgeml_agent.probe.child", *arguments,
            stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=_environment(), start_new_session=True,
        )  # fmt: skip
        watching = asyncio.create_task(_enforce_limit(child, limit_bytes))
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await child.communicate()
        except TimeoutError as error:
            raise _crashed(manifest, f"gave no answer within {timeout_s:.0f} s") from error
        finally:
            is_too_large = watching.done() and not watching.cancelled() and watching.result()
            watching.cancel()
            await _end(child)
        if is_too_large:
            raise _crashed(manifest, f"took more than {limit_bytes} bytes of memory")
        return _read_outcome(manifest, output, child.returncode or 0)


def _read_outcome(manifest: Manifest, output: bytes, code: int) -> Outcome:
    if code < 0:
        raise _crashed(manifest, f"was ended by {signal.Signals(-code).name}")
    try:
        outcome = decoding.from_json(output, Outcome)
    except msgspec.MsgspecError as error:
        raise _crashed(manifest, f"ended with code {code} and no answer") from error
    if outcome.refused is not None:
        raise outcome.refused.error()
    return outcome


def _crashed(manifest: Manifest, event: str) -> DeviceError:
    hint = "try the bundle with `edgeml verify` on the host, or export it for this board"
    return DeviceError("probe-crashed", f"{manifest.stem} {event} in the probe", hint)


async def _enforce_limit(child: Process, limit_bytes: int) -> bool:
    """Kill the child when its resident memory exceeds the limit; return whether it did."""
    while child.returncode is None:
        if _resident_bytes(child.pid) > limit_bytes:
            _kill(child)
            return True
        await asyncio.sleep(WATCH_EVERY_S)
    return False


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


async def _end(child: Process) -> None:
    if child.returncode is None:
        _kill(child)
        await child.wait()


def _kill(child: Process) -> None:
    """Kill the child's process group, which it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Return this process's environment without variables that may have credentials."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGEML_")}

"""edgeml's own programs as child processes, called with the arguments that a person would type.

The children are in sessions of their own: Ctrl-C reaches the demonstration alone, which ends them in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

from edgeml_core.errors import DeviceError
from edgeml_io.aio import within

#: Seconds between SIGTERM and SIGKILL; an agent finishes its requests and closes its store in about one.
STOP_TIMEOUT_S: Final = 15.0
#: Characters of a program's log in the error message when it ends by itself: the last lines.
_EXCERPT_CHARS: Final = 600


async def run(module: str, *arguments: str, report: Callable[[str], None], temporary: Path) -> dict[str, Any]:
    """Run `python -m module arguments --json` to its end.

    Args:
        module: the program.
        arguments: of the program.
        report: is called with each step that the program prints.
        temporary: the folder for temporary files of the program and its libraries.

    Returns:
        The last object that the program prints.

    Raises:
        DeviceError: with the program's own code and message, when it fails.
    """
    result: dict[str, Any] = {}
    async with _started(module, *arguments, "--json", stdout=PIPE, stderr=DEVNULL, TMPDIR=str(temporary)) as process:
        assert process.stdout is not None  # noqa: S101 - requested above
        async for line in process.stdout:
            result = json.loads(line)
            if result.get("event") == "stage":
                report(f"  {result['stage']}")
        code = await process.wait()
    if code != 0:
        error = {"code": "internal", "message": f"{module} failed: {code}", "hint": ""} | result.get("error", {})
        raise DeviceError(error["code"], error["message"], error["hint"])
    return result


@asynccontextmanager
async def running(log: Path, module: str, *arguments: str, **environment: str) -> AsyncIterator[None]:
    """Run `python -m module arguments` until the block ends; its output is written to `log`.

    Raises:
        DeviceError: `runtime-failed`, at the end of the block, when the program ended by itself.
    """
    with log.open("wb") as output:
        async with _started(module, *arguments, stdout=output, stderr=output, **environment) as process:
            yield
            ended_early = process.returncode is not None
    if ended_early:
        text = await asyncio.to_thread(log.read_text)
        raise DeviceError("runtime-failed", f"{module} ended: {text[-_EXCERPT_CHARS:]}")


@asynccontextmanager
async def _started(
    module: str,
    *arguments: str,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    **environment: str,
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await within(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
